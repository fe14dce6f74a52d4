"""Looking at single records: what `Verify` stands on, and how it is known that it is fresh."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from keyauthority.model import Revision
from keyauthority_server.store.values import ANY, Proven, Sight, Sights, Wanted


class Looks(Protocol):
    """What answers Verify, and admits operators: the store, or what keeps its records."""

    async def look(
        self, access_key: str | None, operator: str | None, wanted: Wanted = ANY
    ) -> Sight:
        """Return a key with its project, and the key that `operator` names, as one state.

        Whether the latter is an operator's is for the caller to check. Bound to be called for
        every Verify: of a store one statement, one primary-key read for each part, as they are now.
        Raises StoreStale for what must be proven and cannot be.
        """
        ...

    async def look_many(
        self, access_keys: Sequence[str], operator: str | None, wanted: Wanted = ANY
    ) -> Sights:
        """Return many keys, each with its project, and an operator's key, as one state."""
        ...

    def stands_at(self, revision: Revision) -> bool:
        """True if a look would be of the state of this revision, and that is known at once.

        As fresh as a look: of a store the head of its log is read. Raises what a look does.
        """
        ...


@runtime_checkable
class Proving(Protocol):
    """What an engine offers whose reads alone do not prove how fresh they are.

    Any database can be read, also one that was cut off and replaced. Only one that still commits as
    durably as changes are committed has them all: so it is made to, again and again, and a read
    that shows such a commit is as fresh as its beginning.
    """

    @property
    def proven_at(self) -> float:
        """By `clock.monotonic`: when the newest of these commits began."""
        ...

    @property
    def acknowledged(self) -> Revision:
        """The newest revision that this process has committed: no answer of its own is older."""
        ...

    async def prove_each(self, seconds: float) -> None:
        """Commit from now on so often, for the first time before it returns, if that can be."""
        ...

    async def look_proven(self, access_keys: Sequence[str], operator: str | None) -> Proven:
        """Do what `Looks.look_many` does, and tell what the read has proven."""
        ...
