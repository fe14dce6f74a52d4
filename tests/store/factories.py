"""Factories of records and mutations for store tests, and a MAC over a whole entry."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from keyauthority.model import ChangeType, Key, KeyKind, KeyMode, Project
from keyauthority.token import new_access_key
from keyauthority_server.store.interface import Store, Transaction
from keyauthority_server.store.types import (
    Actor,
    Applied,
    Entry,
    EntryMac,
    Mutation,
    NewestTime,
    StoredKey,
)

NOON = datetime(2026, 11, 23, 12, 0, 0, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def sign(content: Entry | NewestTime, key_version: int | None = None) -> EntryMac:
    """Return a hash over all of an entry, its place in the chain included, or over a time."""
    text = json.dumps(asdict(content), default=repr, sort_keys=True)
    return EntryMac(hashlib.sha256(text.encode()).digest(), 1)


def project(**fields: Any) -> Project:
    """Return a project that was not stored yet."""
    given: dict[str, Any] = {
        "project_id": str(uuid4()),
        "create_time": NOON,
        "update_time": NOON,
        "revision": 0,
    }
    return Project(**(given | fields))


def key(project_id: str, **fields: Any) -> Key:
    """Return a key that was not stored yet."""
    given: dict[str, Any] = {
        "access_key": new_access_key(),
        "project_id": project_id,
        "mode": KeyMode.LIVE,
        "kind": KeyKind.SECRET,
        "create_time": NOON,
        "update_time": NOON,
        "revision": 0,
    }
    return Key(**(given | fields))


def operator(**fields: Any) -> Key:
    """Return an operator key that was not stored yet."""
    return key("", kind=KeyKind.OPERATOR, permissions=("*:*",), **fields)


def held(record: Key, pepper_version: int = 1, lineage: str | None = None) -> StoredKey:
    """Return the key with its digest; by default the first of a lineage."""
    digest = hashlib.sha256(record.access_key.encode()).digest()
    return StoredKey(record, digest, pepper_version, lineage or record.access_key)


def mutation(
    type_: ChangeType,
    *records: Key | Project,
    time: datetime = NOON,
    lineage: str | None = None,
) -> Mutation:
    """Return the change of these records."""
    projects = [record for record in records if isinstance(record, Project)]
    return Mutation(
        Actor("KA7Q2M9X4T8B3N6W5R1P", "127.0.0.1"),
        type_,
        time,
        keys=tuple(held(one, lineage=lineage) for one in records if isinstance(one, Key)),
        project=projects[0] if projects else None,
    )


def applying(wanted: Mutation) -> Callable[[Transaction], Applied]:
    """Return work that makes one change."""
    return lambda transaction: transaction.apply(wanted)


async def put(
    store: Store,
    type_: ChangeType,
    *records: Key | Project,
    time: datetime = NOON,
    lineage: str | None = None,
) -> Applied:
    """Make one change, and return the written records."""
    return await store.write(applying(mutation(type_, *records, time=time, lineage=lineage)))


async def create(store: Store, record: Key) -> Key:
    """Create a key, and return it as it was stored."""
    return (await put(store, ChangeType.KEY_CREATED, record)).keys[0]


async def create_project(store: Store, **fields: Any) -> Project:
    """Create a project, and return it as it was stored."""
    stored = (await put(store, ChangeType.PROJECT_CREATED, project(**fields))).project
    assert stored is not None
    return stored
