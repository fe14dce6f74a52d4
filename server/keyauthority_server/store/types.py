"""What goes into a store and comes out of it: plain values, the same for every engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple, Protocol

from keyauthority.model import Change, ChangeType, Key, Project, Revision

Scope = frozenset[str] | None
"""The projects that a caller is confined to; None means all, operator keys included."""


class StoredKey(NamedTuple):
    """A key with what only the authority sees of it."""

    key: Key
    digest: bytes
    """HMAC-SHA-256 of the whole token, under the pepper of `pepper_version`."""
    pepper_version: int
    lineage: str
    """The access key of the first key of its lineage: what counters belong to. Never changes."""


class Snapshot(NamedTuple):
    """One consistent look at the store."""

    head: Revision
    stored: StoredKey | None
    project: Project | None
    """The project of `held`."""
    operator: StoredKey | None


class Snapshots(NamedTuple):
    """One consistent look at many keys; the pairs are in the order that was asked for."""

    head: Revision
    pairs: Sequence[tuple[StoredKey | None, Project | None]]
    operator: StoredKey | None


class ReadOptions(NamedTuple):
    """What a look has to be good for."""

    at_least: int = 0
    """Not older than this revision, unless the head of the store is."""
    proven: bool = True
    """Raise if nobody can tell how stale it is; False for what a transaction judges once more."""
    bookkeeping: bool = False
    """With last_used_time as it is now, which no change tells of."""


ANY: Final = ReadOptions()


class DatedSnapshot(NamedTuple):
    """A look, and what is known of its age."""

    snapshots: Snapshots
    as_of: float
    """By `clock.monotonic`: no change that was committed before this moment is missing."""


class ChangePage(NamedTuple):
    """One consistent look at the end of the log of changes."""

    changes: Sequence[Change]
    """In order of revision and without a gap: the records as they are after each."""
    head: Revision
    """The newest revision. Unless the changes reach it, there are more."""
    as_of: float
    """By `clock.monotonic`: no change that was committed before this moment is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """What shall be changed, by whom and from where. The records are as they shall be after it.

    `apply` stamps them with revision and update_time, and with create_time those that are new. A
    key that is rotated comes first, its successor second.
    """

    type: ChangeType
    time: datetime
    actor: str
    peer: str
    keys: tuple[StoredKey, ...] = ()
    project: Project | None = None


class Applied(NamedTuple):
    """What `apply` has written: to be committed when the work returns."""

    revision: Revision
    keys: tuple[Key, ...]
    project: Project | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry of the log of changes: what the chain's hash is taken over.

    `keys`, `project` and `before` are the flat records that the store keeps: column to value, times
    in microseconds since the Unix epoch, nothing that is unset, no digest. `before` holds, for each
    record in the same order (keys, then project), what the change overwrote; a record that is new
    has an empty one.
    """

    revision: Revision
    time: datetime
    type: ChangeType
    project_id: str
    access_key: str
    actor: str
    peer: str
    keys: Sequence[Mapping[str, object]]
    project: Mapping[str, object] | None
    before: Sequence[Mapping[str, object]]
    salt: bytes
    """16 random bytes."""
    previous_hash: bytes
    """The hash of the entry before; empty for the first."""


class EntryMac(NamedTuple):
    """The hash of an entry, and the version of the key that it was made under."""

    hash: bytes
    key_version: int


@dataclass(frozen=True, slots=True)
class NewestTime:
    """The newest time that a store has committed, as its seal is taken over it."""

    microseconds: int
    """Since the Unix epoch."""


class EntrySigner(Protocol):
    """Seals with the audit key."""

    def __call__(self, content: Entry | NewestTime, key_version: int | None = None, /) -> EntryMac:
        """Return the seal under a version of the key, unless one is named the current one.

        Raises StoreDamaged for a version that the key file does not have.
        """
        ...


class SignedEntry(NamedTuple):
    """An entry as the log keeps it, with its seal."""

    entry: Entry
    seal: EntryMac
    earlier: Sequence[Mapping[str, object]] = ()
    """Of `Store.read_log`: for each record of `before`, what the log said of it last."""


class CorruptEntry(NamedTuple):
    """A row of the log that no entry was ever written as: somebody has altered it."""

    revision: int
    hash: bytes


class LogHead(NamedTuple):
    """What the counter row says of the log: where it ends, and with which hash."""

    log_id: str
    revision: int
    hash: bytes
    closed: bool
    """It was closed for writing: the source of a copy, or a copy that was not finished."""
    time: int | None
    """The newest time, in microseconds since the Unix epoch."""
    time_seal: EntryMac | None
    """What it is sealed with; None in a log of an older version."""


class Mismatch(NamedTuple):
    """A key or project that is not as the log of changes has left it."""

    name: str
    """Its access key or project_id."""
    revision: int
    """The change that it disagrees with."""
    why: str


class DeniedMutation(NamedTuple):
    """Mutations that were refused to a caller who is known; all texts are bounded."""

    time: datetime
    """Of the last of them."""
    times: int
    """How often in a row: the same caller, asking the same."""
    actor: str
    peer: str
    method: str
    reason: str
    project_id: str
    """As the request named it; empty if it named none, as with the next."""
    access_key: str


class DigestUpgrade(NamedTuple):
    """A digest to put in place of another of the same token, made under an older pepper."""

    access_key: str
    found: bytes
    found_version: int
    digest: bytes
    pepper_version: int


class PepperUsage(NamedTuple):
    """What was made under one version of the pepper."""

    pepper_version: int
    needing: int
    """Keys that need the version: see `Transaction.keys_needing`."""
    over: int
    """Keys that are revoked or superseded, and need it no more."""
    sealed: int
    """Tokens that are sealed under it for their request_id."""
    sealed_until: datetime | None
    """When the last of them ends."""


class VersionsInUse(NamedTuple):
    """Which versions of the key files the log and its keys were made under, in one state."""

    checks: Mapping[str, bytes]
    """The check values that the database has, by name: each version used should have one."""
    pepper: frozenset[int]
    """Of the digests of keys that are neither revoked nor superseded."""
    audit_key: frozenset[int]
    """Of the entries."""


class IdempotencyRecord(NamedTuple):
    """What is kept of a request that carried a request_id."""

    name: bytes
    """A hash of the id, and of whose it is: what the request is found by."""
    content: bytes
    """A hash of all that the request asked for."""
    revision: Revision
    """The change that it made."""
    access_key: str
    """The key that it made; empty if it made none."""
    sealed: bytes | None
    """The token that it answered; None once it was forgotten."""
    pepper_version: int
    end: datetime
    """From this moment on it is as if the request had never been."""
