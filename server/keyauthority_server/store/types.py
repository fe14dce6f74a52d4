"""Plain values that a store takes and returns, the same for every engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, NamedTuple, Protocol

from keyauthority.model import Change, ChangeType, Key, KeyKind, KeyMode, LogId, Project, Revision

Scope = frozenset[str] | None
"""The projects that a caller is confined to; None means all, operator keys included."""


class StoredKey(NamedTuple):
    """A key with the fields that never leave the authority."""

    key: Key
    digest: bytes
    """HMAC-SHA-256 of the whole token, under the pepper of `pepper_version`.

    That of an imported key has two parts, of which the first finds it: `services.token_digests`.
    """
    pepper_version: int
    lineage: str
    """The access key of the first key of its lineage, which owns the counters. Never changes."""


class ImportedToken(NamedTuple):
    """The key of another system's token, found by the first part of its digest."""

    access_key: str
    project_id: str
    kind: KeyKind
    mode: KeyMode
    import_set: str


class Snapshot(NamedTuple):
    """A key, its project and an operator's key, in one consistent state."""

    head: Revision
    stored: StoredKey | None
    project: Project | None
    """The project of `stored`."""
    operator: StoredKey | None


class Snapshots(NamedTuple):
    """Many keys in one consistent state; the pairs are in the order of the request."""

    head: Revision
    pairs: Sequence[tuple[StoredKey | None, Project | None]]
    operator: StoredKey | None


class DatedSnapshot(NamedTuple):
    """Snapshots, and a bound of their age."""

    snapshots: Snapshots
    as_of: float
    """By `clock.monotonic`: includes every change committed before this time."""


class ChangePage(NamedTuple):
    """A page of the change log, with the head of the same state."""

    changes: Sequence[Change]
    """In order of revision, without a gap, each with the records as of that change."""
    head: Revision
    """The newest revision. If the changes end before it, there are more."""
    as_of: float
    """By `clock.monotonic`: includes every change committed before this time."""


class Author(Protocol):
    """The one that makes a change: an authenticated caller, or an `Actor`."""

    @property
    def actor(self) -> str:
        """The name under which the change is recorded."""
        ...

    @property
    def peer(self) -> str:
        """The address of the peer; empty for a change on the machine itself."""
        ...


class Actor(NamedTuple):
    """The author of a change that no operator makes."""

    actor: str
    peer: str = ""


@dataclass(frozen=True, slots=True)
class Mutation:
    """A change to make: its author, and the new state of the records.

    `apply` stamps the records with revision and update_time, and new ones with create_time. A
    rotated key comes first, its successor second.
    """

    author: Author
    type: ChangeType
    time: datetime
    keys: tuple[StoredKey, ...] = ()
    project: Project | None = None


class Applied(NamedTuple):
    """The records that `apply` has written; they commit when the work returns."""

    revision: Revision
    keys: tuple[Key, ...]
    project: Project | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry of the change log, the input of the chain's hash.

    `keys`, `project` and `before` are the row dicts that the store keeps: column to value, times in
    microseconds since the Unix epoch, without unset columns and digests. `before` holds the
    overwritten state of each record in the same order (keys, then project), empty for a new record.
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
    """The hash of the previous entry; empty for the first."""


class Reads(NamedTuple):
    """Names of the keys and projects that a write is going to read."""

    keys: tuple[str, ...] = ()
    projects: tuple[str, ...] = ()


NO_READS: Final = Reads()


class EntryMac(NamedTuple):
    """The MAC of an entry, and the version of the key that made it."""

    hash: bytes
    key_version: int


@dataclass(frozen=True, slots=True)
class NewestTime:
    """The newest time that a store has committed, the input of its MAC."""

    microseconds: int
    """Since the Unix epoch."""


class EntrySigner(Protocol):
    """Computes MACs with the audit key."""

    def __call__(self, content: Entry | NewestTime, key_version: int | None = None, /) -> EntryMac:
        """Return the MAC under a version of the key (default: the current one).

        Raises StoreDamaged for a version that the key file does not have.
        """
        ...


class SignedEntry(NamedTuple):
    """An entry of the log with its MAC."""

    entry: Entry
    mac: EntryMac
    earlier: Sequence[Mapping[str, object]] = ()
    """From `read_log`: for each record of `before`, its state in its previous entry."""


class CorruptEntry(NamedTuple):
    """A row of the log that holds no valid entry: it was altered."""

    revision: int
    hash: bytes


class LogHead(NamedTuple):
    """The end of a log: its newest revision, and the hash that covers all of its entries.

    The counter row holds it; copies are kept apart from the log to detect a lost end.
    """

    log_id: LogId
    revision: Revision
    hash: bytes = b""
    """Empty in an empty log, in an unfinished copy, and where only the revision is kept."""
    time: int | None = None
    """The newest committed time, in microseconds since the Unix epoch; see `log_head`."""
    closed: bool = False
    """Closed for writing: the source of a copy, or an unfinished copy."""
    time_mac: EntryMac | None = None
    """The MAC of `time`; None in a log of an older version."""


class Mismatch(NamedTuple):
    """A key or project that differs from its newest change in the log."""

    name: str
    """Its access key or project_id."""
    revision: int
    """The change that the record contradicts."""
    why: str


class DeniedMutation(NamedTuple):
    """Denied mutations of an authenticated caller; all texts are bounded."""

    time: datetime
    """Time of the last one."""
    times: int
    """Number of consecutive equal requests of the same caller."""
    actor: str
    peer: str
    method: str
    reason: str
    project_id: str
    """As named in the request; empty if absent, as is `access_key`."""
    access_key: str


class SightingCause(StrEnum):
    """The reason for which presentations of a key are observed."""

    CANARY = "canary"
    """The key has the label of a decoy."""
    OVERLAP = "overlap"
    """The key was rotated, and is not superseded yet."""
    END = "end"
    """The key was revoked, superseded or expired."""


class Sighting(NamedTuple):
    """Presentations of a key for one cause."""

    access_key: str
    cause: SightingCause
    period: datetime
    """END: the end of the key; OVERLAP: its supersede_time. Counts of another period do not add."""
    number: int
    """Of presentations."""
    first_time: datetime
    last_time: datetime
    last_peer: str
    """The address of the last presentation; empty if unknown."""


class PermissionUse(NamedTuple):
    """A permission of a key, as granted, that was granted or asked for on a day."""

    access_key: str
    permission: str
    day: datetime
    """The start of the day, UTC."""


class Observations(NamedTuple):
    """Observations of presentations, counted with their usage."""

    sightings: Sequence[Sighting] = ()
    permissions: Sequence[PermissionUse] = ()


NOT_OBSERVED: Final = Observations()


class KeyObservations(NamedTuple):
    """The stored observations of one key."""

    sightings: Mapping[SightingCause, Sighting]
    permission_days: Mapping[str, datetime]
    """The last day on which a permission was granted or asked for."""
    rotate_time: datetime | None
    """The creation of the successor; None without one."""


class DigestUpgrade(NamedTuple):
    """A new digest of a token, to replace one made under an older pepper."""

    access_key: str
    found: bytes
    found_version: int
    digest: bytes
    pepper_version: int


class PepperUsage(NamedTuple):
    """Keys and sealed tokens that depend on one version of the pepper."""

    pepper_version: int
    needing: int
    """Keys that need the version: see `sql.queries.digests.keys_needing`."""
    over: int
    """Revoked or superseded keys, which do not need the version."""
    sealed: int
    """Tokens sealed under the version for their request_id."""
    sealed_until: datetime | None
    """When the last of them expires."""


class VersionsInUse(NamedTuple):
    """Key versions that the log and its keys depend on, in one consistent state."""

    checks: Mapping[str, bytes]
    """The database's check values by name; each version in use should have one."""
    pepper: frozenset[int]
    """Versions of the digests of keys that are neither revoked nor superseded."""
    audit_key: frozenset[int]
    """Versions that signed the entries of the log."""


class IdempotencyRecord(NamedTuple):
    """The stored outcome of a request that carried a request_id."""

    name: bytes
    """A hash of the request_id and its caller: the lookup key."""
    content: bytes
    """A hash of the request's content."""
    revision: Revision
    """The change that the request made."""
    access_key: str
    """The key that the request created; empty without one."""
    sealed: bytes | None
    """The sealed token that was returned; None once deleted."""
    pepper_version: int
    end: datetime
    """Expiry: from this time on the request counts as new."""
