"""Reads of single records, and each engine's proof that cached records are current."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from keyauthority.clock import Reference
from keyauthority.model import Change, Revision
from keyauthority_server.store.types import (
    DatedSnapshot,
    Snapshot,
    Snapshots,
    StoredKey,
)


class DatedSnapshotReader(Protocol):
    """Reads records together with a bound of their age."""

    async def read_dated(self, access_keys: Sequence[str], operator: str | None) -> DatedSnapshot:
        """Read as `SnapshotReader.read_many` does, and bound the age of the state."""
        ...


class SnapshotReader(DatedSnapshotReader, Protocol):
    """Reads of single records, each as one consistent state."""

    async def read(self, access_key: str | None, operator: str | None) -> Snapshot:
        """Return a key with its project, and the key named by `operator`, in one state.

        The caller checks that the latter is an operator key. Runs one statement with a primary-key
        read for each part. Raises StoreDamaged for a record that the log contradicts.
        """
        ...

    async def read_many(self, access_keys: Sequence[str], operator: str | None) -> Snapshots:
        """Return many keys, each with its project, and an operator's key, in one state."""
        ...


@runtime_checkable
class LocalLog(Protocol):
    """An engine whose log can be read in the event loop, within microseconds."""

    def head(self) -> Revision:
        """Return the newest revision committed by any process.

        Raises StoreUnavailable.
        """
        ...

    def outline(self, access_key: str) -> StoredKey:
        """Return only the fields needed to compare a token, in equal time for an absent key.

        No token matches the digest of an absent key. The record is not compared with the log: use
        it only to reject.
        """
        ...

    def names_changed_since(self, after: Revision, limit: int) -> Sequence[str] | None:
        """Return access keys and project ids of the records changed after a revision.

        None for more than `limit` changes.
        """
        ...


Committed = Callable[[Revision, Sequence[Change]], bool]
"""Takes the head of the log before a commit, and its changes. False if it has not used them."""


@runtime_checkable
class FreshnessProver(Protocol):
    """An engine whose reads do not prove their own freshness.

    A database that was cut off and replaced can still be read. Only a database that still commits,
    as durably as it commits changes, has all of them: so the engine commits heartbeats, and a read
    that shows a heartbeat is as fresh as the start of that heartbeat.
    """

    @property
    def proven_at(self) -> float:
        """By `clock.monotonic`: start of the newest committed heartbeat."""
        ...

    @property
    def reference(self) -> Reference:
        """The database's clock, shared by all servers that use it."""
        ...

    @property
    def acknowledged(self) -> Revision:
        """The newest revision committed by this process: none of its answers is older."""
        ...

    def deliver_commits(self, deliver: Committed) -> None:
        """Call `deliver` in the event loop after each commit, before its callers are answered.

        So a change of this process costs no read of the log.
        """
        ...

    async def start_heartbeats(self, seconds: float) -> None:
        """Start heartbeats at this interval; commit the first before returning, if possible."""
        ...
