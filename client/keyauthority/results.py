"""Results of calls: frozen dataclasses shared by client and server."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Generic, TypeVar

from keyauthority.errors import ErrorReason
from keyauthority.model import AdvisoryType, Change, ChangeType, Key, KeyState, Project
from keyauthority.token import SecretKey

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatedKey:
    """A new key and its token, which cannot be retrieved again."""

    key: Key
    secret_key: SecretKey
    revision: int
    log_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RotatedKey:
    """The successor, its token, which cannot be retrieved again, and the replaced key."""

    key: Key
    secret_key: SecretKey
    previous: Key
    revision: int
    log_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenKey:
    """A key as committed. `revision` is the store's current one if nothing changed."""

    key: Key
    revision: int
    log_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenProject:
    """A project as committed. `revision` is the store's current one if nothing changed."""

    project: Project
    revision: int
    log_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokedKey:
    """Result of RevokeKey. `key` is None if the key was revoked by its secret alone."""

    access_key: str
    project_id: str
    state: KeyState | None
    revoke_time: datetime | None
    key_revision: int
    key: Key | None
    revision: int
    log_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyLookup:
    """The key that a token proves. `project` is None for an operator key."""

    key: Key
    project: Project | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportFailure:
    """The reason for which a key was not imported."""

    reason: ErrorReason | None
    """None for a reason that this version of the library does not know."""
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportResult:
    """The outcome of one key of ImportKeys."""

    access_key: str = ""
    """Empty for a failure, and for a new key that was only validated."""
    created: bool = False
    """False for a key that was imported before."""
    error: ImportFailure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedKeys:
    """The outcome of each key, in the order of the call."""

    results: tuple[ImportResult, ...]
    revision: int
    log_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerIdentity:
    """The identity and rights of the caller: an operator key, or a client certificate."""

    access_key: str
    """Empty for a certificate."""
    certificate_name: str
    """Empty for an operator key."""
    permissions: tuple[str, ...]
    operator_projects: tuple[str, ...]
    """The projects that the caller is confined to; empty means all."""
    allowed_ips: tuple[str, ...]
    """The addresses that the caller may call from; empty means any."""
    expire_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchUpdate:
    """A message of a watch: changes in order of revision, and the position of the stream."""

    changes: tuple[Change, ...]
    """During a snapshot, the existing records."""
    revision: int
    log_id: str
    checkpoint: bool
    """True if the stream has delivered all changes up to `revision` that the caller may see."""
    resync: bool
    """True if changes may have been missed. The stream ends; open a new one with `snapshot`."""
    server_time: datetime
    lag: timedelta
    """Maximum age of the server's own state."""


@dataclass(frozen=True, slots=True)
class FieldChange:
    """A field before and after a change, as proto JSON; empty if unset."""

    field: str
    before: str
    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An audit event: a change, its time, actor and peer, the changed fields, the hash chain."""

    revision: int
    time: datetime
    type: ChangeType
    actor: str
    peer: str
    project_id: str
    access_key: str
    changed: tuple[FieldChange, ...]
    hash: bytes
    previous_hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Advisory:
    """One reason for which one key needs attention."""

    type: AdvisoryType
    access_key: str
    project_id: str
    since_time: datetime
    """The start of the condition; the same as long as its cause lasts."""
    last_time: datetime | None = None
    """The newest presentation of the key, valid or denied."""
    count: int = 0
    """The presentations since `since_time`, valid or denied."""
    last_peer: str = ""
    """The address that a decoy, or a key at or after its end, was last presented from."""
    permissions: tuple[str, ...] = ()
    """The unused permissions, as granted."""
    remedy: str = ""
    """The action to take, in English."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A page of a list. A short or empty page is the last one only without a next_page_token."""

    items: tuple[T, ...]
    next_page_token: str = ""
