"""What calls answer: frozen, plain, shared by both ends."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Generic, TypeVar

from keyauthority.model import Change, ChangeType, Key, KeyState, Project
from keyauthority.token import SecretKey

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatedKey:
    """A new key and its token, which is shown here and never again."""

    key: Key
    secret_key: SecretKey
    revision: int
    log_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RotatedKey:
    """The successor and its token, shown here and never again, and the key that it replaces."""

    key: Key
    secret_key: SecretKey
    previous: Key
    revision: int
    log_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenKey:
    """A key as it was committed. The revision is that of the store if nothing was changed."""

    key: Key
    revision: int
    log_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenProject:
    """A project as it was committed. The revision is that of the store if nothing was changed."""

    project: Project
    revision: int
    log_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokedKey:
    """What RevokeKey answers. `key` is None where the secret alone was the right to revoke."""

    access_key: str
    project_id: str
    state: KeyState | None
    revoke_time: datetime | None
    key_revision: int
    key: Key | None
    revision: int
    log_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchUpdate:
    """A message of a watch: changes in order of revision, and how far the stream has come."""

    changes: tuple[Change, ...]
    """During a snapshot, records as they are."""
    revision: int
    log_id: str
    checkpoint: bool
    """True: everything up to `revision` that the caller may see has been told."""
    resync: bool
    """True: something was or may have been missed. The stream ends; take a new snapshot."""
    server_time: datetime
    lag: timedelta
    """How old the server's own state may be at most."""


@dataclass(frozen=True, slots=True)
class FieldChange:
    """A field before and after a change, as JSON in the words of the protos; empty for unset."""

    field: str
    before: str
    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One change as evidence: who, when, from where, what it touched, its place in the chain."""

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


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A page of a list. It may be short, even empty, while there is a token for the next."""

    items: tuple[T, ...]
    next_page_token: str = ""
