"""Reads of single records, and how each engine knows that records in memory are current."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from keyauthority.clock import Reference
from keyauthority.model import Revision
from keyauthority_server.store.types import (
    ANY,
    DatedSnapshot,
    ReadOptions,
    Snapshot,
    Snapshots,
    StoredKey,
)


class DatedSnapshotReader(Protocol):
    """Reads records whose age matters."""

    async def read_dated(self, access_keys: Sequence[str], operator: str | None) -> DatedSnapshot:
        """Do what `Looks.look_many` does, and tell what is known of the state's age."""
        ...


class SnapshotReader(DatedSnapshotReader, Protocol):
    """Reads of single records, each as one consistent state."""

    async def read(
        self, access_key: str | None, operator: str | None, wanted: ReadOptions = ANY
    ) -> Snapshot:
        """Return a key with its project, and the key that `operator` names, as one state.

        Whether the latter is an operator's is for the caller to check. One statement, a primary-key
        read for each part. Raises StoreDamaged for a record that the log contradicts.
        """
        ...

    async def read_many(
        self, access_keys: Sequence[str], operator: str | None, wanted: ReadOptions = ANY
    ) -> Snapshots:
        """Return many keys, each with its project, and an operator's key, as one state."""
        ...


@runtime_checkable
class LocalLog(Protocol):
    """What an engine offers whose log is read in the event loop, within microseconds."""

    def head(self) -> Revision:
        """Return the newest revision that is committed, by any process.

        Raises StoreUnavailable.
        """
        ...

    def outline(self, access_key: str) -> StoredKey:
        """Return a key with just what a token is compared with; it takes as long for an absent one.

        No token has the digest of an absent key. The record is not compared with the log: for
        refusals only.
        """
        ...

    def names_changed_since(self, after: Revision, limit: int) -> Sequence[str] | None:
        """Return access keys and project ids of the records changed after a revision.

        None for more than `limit` changes.
        """
        ...


@runtime_checkable
class FreshnessProver(Protocol):
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
    def reference(self) -> Reference:
        """The database's clock, which is the time of all servers that share it."""
        ...

    @property
    def acknowledged(self) -> Revision:
        """The newest revision that this process has committed: no answer of its own is older."""
        ...

    async def prove_each(self, seconds: float) -> None:
        """Commit from now on so often, for the first time before it returns, if that can be."""
        ...
