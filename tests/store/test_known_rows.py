"""Rows that the units of a group share: never older than the transaction, and read once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from keyauthority.model import ChangeType, Key, UsageRow, VerdictCode
from keyauthority_server.store.interface import Store, Transaction
from keyauthority_server.store.sqlite.connection import SqliteRows
from tests.store.engine_only import only
from tests.store.engines import Engine
from tests.store.factories import NOON, SECOND, create, create_project, key, mutation, put
from tests.store.test_processes import assert_whole


def purpose(transaction: Transaction, record: Key) -> str:
    """Return the purpose of a key, as a transaction reads it."""
    stored = transaction.key(record.access_key, None)
    assert stored is not None
    return stored.key.purpose


async def test_rows_changed_by_another_process_are_read_again(
    store: Store, engine: Engine, place: str
) -> None:
    """Two processes that take turns see each other's records and continue one chain."""
    record = await create(store, key((await create_project(store)).project_id))
    other = engine.open(place)
    for turn in range(6):
        writer, reader = (store, other) if turn % 2 else (other, store)
        await put(writer, ChangeType.KEY_UPDATED, replace(record, purpose=str(turn)))
        for _ in range(2):
            assert str(turn) == await reader.write(lambda opened: purpose(opened, record))
    await other.close()
    assert 8 == assert_whole(engine, place)


async def test_rows_of_an_undone_unit_are_read_again_by_the_next(
    store: Store, engine: Engine, place: str
) -> None:
    """Units of one group, of which every second fails after a change: nothing of it is seen."""
    record = await create(store, key((await create_project(store)).project_id))
    seen: list[tuple[int, str]] = []

    def work(opened: Transaction, number: int) -> None:
        seen.append((opened.head, purpose(opened, record)))
        changed = replace(record, purpose=str(number))
        opened.apply(mutation(ChangeType.KEY_UPDATED, changed))
        assert str(number) == purpose(opened, record)
        if number % 2:
            raise LookupError(number)

    with engine.writers_held_up(place):
        writing = [
            asyncio.create_task(store.write(partial(work, number=number))) for number in range(6)
        ]
        await asyncio.sleep(0)
    outcomes = await asyncio.gather(*writing, return_exceptions=True)
    assert [None, LookupError] * 3 == [one and type(one) for one in outcomes]
    assert [(2, ""), (3, "0"), (3, "0"), (4, "2"), (4, "2"), (5, "4")] == seen
    assert 5 == assert_whole(engine, place)


async def test_time_of_a_count_is_the_newest_time_of_later_units(
    store: Store, engine: Engine, place: str
) -> None:
    """Counting moves the store's clock and the last use for the rest of the group, and after it."""
    record = await create(store, key((await create_project(store)).project_id))
    later = NOON + 5 * SECOND
    row = UsageRow(
        access_key=record.access_key,
        project_id=record.project_id,
        verdict=VerdictCode.VALID,
        bucket_time=NOON.replace(minute=0, second=0, microsecond=0),
        count=1,
        cost=1,
        last_used_time=later,
    )

    def count(opened: Transaction) -> None:
        assert opened.newest_time == NOON
        assert purpose(opened, record) == ""
        opened.count_usage("batch", [row], later, later + SECOND)

    def look(opened: Transaction) -> tuple[object, object]:
        stored = opened.key(record.access_key, None)
        assert stored is not None
        return opened.newest_time, stored.key.last_used_time

    with engine.writers_held_up(place):
        counting = asyncio.create_task(store.write(count))
        looking = asyncio.create_task(store.write(look))
        await asyncio.sleep(0)
    await counting
    assert (later, later) == await looking == await store.write(look)
    assert later == await store.newest_time()


@only("sqlite", because="a commit of another server cannot be noticed without a read")
async def test_rows_are_read_once_while_no_other_process_commits(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head of the log and an unchanged record are not read for each write."""
    record = await create(store, key((await create_project(store)).project_id))
    await store.write(lambda opened: purpose(opened, record))
    read: list[str] = []
    one = SqliteRows.one

    def noted(rows: SqliteRows, statement: str, values: Sequence[Any] = ()) -> Any:
        read.append(statement)
        return one(rows, statement, values)

    monkeypatch.setattr(SqliteRows, "one", noted)
    await store.write(lambda opened: purpose(opened, record))
    assert ["PRAGMA data_version"] == read
