"""An older row written back into the database is never trusted.

The attacker can write the database, and has neither pepper nor audit key.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Final, NamedTuple

import pytest

from keyauthority.model import ChangeType, Key, KeyKind, Project
from keyauthority.requests import KeyFilter
from keyauthority_server.store.interface import Store, StoreDamaged
from keyauthority_server.store.sql import integrity
from keyauthority_server.store.sql.queries.events import read_log
from keyauthority_server.store.sql.queries.lists import list_keys, list_projects
from keyauthority_server.store.types import SignedEntry
from tests.store.engines import Engine
from tests.store.factories import NOON, create, create_project, key, operator, put

ROW: Final = "SELECT * FROM {} WHERE {} = '{}'"
WRITE: Final = "UPDATE {} SET {} WHERE {} = '{}'"
LATER: Final = NOON + timedelta(hours=1)
ALL: Final = KeyFilter()


class Target(NamedTuple):
    """A record that is narrowed, and its table."""

    table: str
    name: str
    record: Key | Project
    narrowed: Key | Project
    change: ChangeType
    project_id: str


async def target(store: Store, kind: str) -> Target:
    """Make a record of a kind, to be revoked or suspended."""
    owner = await create_project(store)
    if kind == "project":
        return Target(
            *("project", owner.project_id, owner, replace(owner, suspended=True)),
            *(ChangeType.PROJECT_UPDATED, owner.project_id),
        )
    made = await create(store, operator() if kind == "operator" else key(owner.project_id))
    return Target(
        *("key", made.access_key, made, replace(made, revoke_time=LATER)),
        *(ChangeType.KEY_REVOKED, owner.project_id),
    )


def put_back(engine: Engine, place: str, table: str, name: str, saved: list[object]) -> None:
    """Write a row of a table as it was saved."""
    column = "access_key" if table == "key" else "project_id"
    (now,) = engine.rows(place, ROW.format(table, column, name))
    names = columns(engine, place, table)
    pairs = [
        f"{one} = {_spelt(old)}"
        for one, old, new in zip(names, saved, now, strict=True)
        if old != new
    ]
    engine.rows(place, WRITE.format(table, ", ".join(pairs), column, name))


def columns(engine: Engine, place: str, table: str) -> list[str]:
    """Return the names of a table's columns in their order."""
    if engine.name == "sqlite":
        return [row[1] for row in engine.rows(place, f"PRAGMA table_info({table})")]
    statement = (
        "SELECT attname FROM pg_attribute WHERE attrelid = 'public.{}'::regclass AND attnum > 0"
        " ORDER BY attnum"
    )
    return [row[0] for row in engine.rows(place, statement.format(table))]


def _spelt(value: object) -> str:
    if value is None:
        return "NULL"
    return str(value) if isinstance(value, int) else f"'{value}'"


@asynccontextmanager
async def put_back_under(
    engine: Engine, place: str, kind: str, *, warm: bool
) -> AsyncIterator[tuple[Store, Target]]:
    """Give a store on a database in which a revocation or suspension was undone by hand.

    Warm: it had looked at the record before, and not since.
    """
    writer, store = engine.open(place), engine.open(place)
    try:
        of = await target(writer, kind)
        column = "access_key" if of.table == "key" else "project_id"
        (saved,) = engine.rows(place, ROW.format(of.table, column, of.name))
        made = await create(writer, key(of.project_id)) if kind == "project" else of.record
        if isinstance(made, Key):
            of = of._replace(name=made.access_key) if kind == "project" else of
        if warm:
            await look(store, of)
            await look(writer, of)
        await put(writer, of.change, of.narrowed)
        row_name = of.record.project_id if isinstance(of.record, Project) else of.name
        put_back(engine, place, of.table, row_name, saved)
        yield (store if warm else writer), of
    finally:
        await writer.close()
        await store.close()


async def look(store: Store, of: Target) -> None:
    """Look at the record as Verify does: as a key, or as the caller's."""
    await store.read(of.name, of.name)


@pytest.mark.parametrize("warm", [True, False], ids=["warm", "cold"])
@pytest.mark.parametrize("kind", ["key", "operator", "project"])
async def test_reinstated_row_is_not_verified_listed_or_changed(
    engine: Engine, place: str, kind: str, warm: bool
) -> None:
    """Snapshots, reads, lists and changes reject it: the log has a later entry."""
    async with put_back_under(engine, place, kind, warm=warm) as (store, of):
        with pytest.raises(StoreDamaged):
            await store.read(of.name, None)
        with pytest.raises(StoreDamaged):
            await store.read_many([of.name], None)
        with pytest.raises(StoreDamaged):
            await put(store, of.change, of.record)
        if isinstance(of.record, Project):
            with pytest.raises(StoreDamaged):
                await store.get_project(of.record.project_id, None)
            with pytest.raises(StoreDamaged):
                await store.query(list_projects, None, 0, 10)
            return
        with pytest.raises(StoreDamaged):
            await store.read(None, of.name)
        with pytest.raises(StoreDamaged):
            await store.get_key(of.name, None)
        wanted = KeyFilter(kind=KeyKind.OPERATOR) if kind == "operator" else ALL
        with pytest.raises(StoreDamaged):
            await store.query(list_keys, None, None, wanted, NOON, 0, 10)


async def test_damaged_record_fails_only_its_own_readers(engine: Engine, place: str) -> None:
    """Callers whose reads share a statement with it still get their answers."""
    async with put_back_under(engine, place, "key", warm=False) as (store, of):
        other = await create(store, key(of.project_id))
        asked = [store.read(of.name, None), *(store.read(other.access_key, None) for _ in range(3))]
        damaged, *whole = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(damaged, StoreDamaged)
        keys = [
            one.stored.key for one in whole if not isinstance(one, BaseException) and one.stored
        ]
        assert [other] * 3 == keys


async def test_without_the_later_entry_check_a_reinstated_row_is_accepted(
    engine: Engine, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: the old row agrees with the entry that it names, so only this check finds it."""
    monkeypatch.setattr(integrity, "check_newest", lambda _: None)
    async with put_back_under(engine, place, "key", warm=False) as (store, of):
        held = (await store.read(of.name, None)).stored
        assert held is not None
        assert held.key.revoke_time is None


@pytest.mark.parametrize("kind", ["key", "operator", "project"])
async def test_change_based_on_a_reinstated_row_contradicts_the_log(
    engine: Engine, place: str, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Its `before` differs from the newest earlier entry; all other entries are consistent."""
    monkeypatch.setattr(integrity, "check_newest", lambda _: None)  # a server that believes it
    async with put_back_under(engine, place, kind, warm=False) as (store, of):
        honest = ChangeType.PROJECT_UPDATED if kind == "project" else ChangeType.KEY_UPDATED
        broken = await put(store, honest, of.record)
        await put(store, honest, of.record)
        found = await store.query(read_log, 0, 100)
        entries = [one for one in found if isinstance(one, SignedEntry)]
        assert len(found) == len(entries)
        assert [broken.revision] == [
            one.entry.revision for one in entries if one.entry.before != one.earlier
        ]


async def test_every_regular_change_follows_from_the_log(engine: Engine, place: str) -> None:
    """Creation, repeated rotation, update and revocation, of keys, projects and operators."""
    store = engine.open(place)
    try:
        owner = await create_project(store)
        keys = [await create(store, key(owner.project_id)) for _ in range(2)]
        for _ in range(2):
            fresh = key(owner.project_id, predecessor_access_key=keys[0].access_key)
            rotated = await put(
                store, ChangeType.KEY_ROTATED, keys[0], fresh, lineage=keys[1].access_key
            )
            keys[0] = rotated.keys[1]
        await put(store, ChangeType.KEY_UPDATED, replace(keys[0], purpose="x"))
        await put(store, ChangeType.PROJECT_UPDATED, owner)
        await put(store, ChangeType.PROJECT_UPDATED, owner)
        caller = await create(store, operator())
        await put(store, ChangeType.KEY_REVOKED, replace(caller, revoke_time=LATER))
        found = await store.query(read_log, 0, 100)
        assert [True] * 10 == [
            isinstance(one, SignedEntry) and one.entry.before == one.earlier for one in found
        ]
    finally:
        await store.close()


async def test_reinstated_counter_row_is_rejected(engine: Engine, place: str) -> None:
    """A head before an observed one is a state that the log never returns to."""
    store = engine.open(place)
    try:
        owner = await create_project(store)
        made = await create(store, key(owner.project_id))
        await store.read(made.access_key, None)
        await put(store, ChangeType.KEY_REVOKED, replace(made, revoke_time=LATER))
        await store.read(made.access_key, None)
        engine.rows(place, "UPDATE log SET revision = revision - 1")
        with pytest.raises(Exception, match="ends at"):
            await store.read(made.access_key, None)
    finally:
        await store.close()
