"""What goes into a store and comes out of it: plain values, the same for every engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from keyauthority.model import ChangeType, Key, Project, Revision

Scope = frozenset[str] | None
"""The projects that a caller is confined to; None means all, operator keys included."""


class Held(NamedTuple):
    """A key with what only the authority sees of it."""

    key: Key
    digest: bytes
    """HMAC-SHA-256 of the whole token, under the pepper of `pepper_version`."""
    pepper_version: int
    lineage: str
    """The access key of the first key of its lineage: what counters belong to. Never changes."""


class Sight(NamedTuple):
    """One consistent look at the store."""

    head: Revision
    held: Held | None
    project: Project | None
    """The project of `held`."""
    operator: Held | None


class Sights(NamedTuple):
    """One consistent look at many keys; the pairs are in the order that was asked for."""

    head: Revision
    pairs: Sequence[tuple[Held | None, Project | None]]
    operator: Held | None


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
    keys: tuple[Held, ...] = ()
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


class Seal(NamedTuple):
    """The hash of an entry, and the version of the key that it was made under."""

    hash: bytes
    key_version: int


Sealer = Callable[[Entry], Seal]


class Remembered(NamedTuple):
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
