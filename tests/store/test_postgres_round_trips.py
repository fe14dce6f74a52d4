"""Round trips to PostgreSQL: on a busy machine each waits for its turn, so they are few."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from psycopg.abc import PQGen
from psycopg.waiting import Wait

from keyauthority.model import Change, ChangeType, Key, Revision
from keyauthority_server.store.interface import StoreError, Transaction
from keyauthority_server.store.postgres import PostgresStore, connection
from keyauthority_server.store.postgres.rows import PostgresRows
from keyauthority_server.store.types import Observations, PermissionUse, Reads
from tests.postgres import execute, holding
from tests.store.factories import NOON, applying, create, create_project, key, mutation, project
from tests.store.test_usage import keys_of
from tests.store.test_usage import row as usage_row

FEW = (
    8  # round trips of a group: its beginning, records, check values, writes, commit, notification
)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[Wait]:
    """The waits of the writer for PostgreSQL, in each of which another thread may run."""
    waits: list[Wait] = []
    bounded = connection._bounded

    def counting(gen: PQGen[Any], end: float) -> PQGen[Any]:
        inner = bounded(gen, end)
        try:
            events = next(inner)
            while True:
                if threading.current_thread().name == "store-writer":
                    waits.append(Wait(events))
                events = inner.send((yield events))
        except StopIteration as result:
            return result.value

    monkeypatch.setattr(connection, "_bounded", counting)
    return waits


def renamed(record: Key) -> Any:
    """Return the work that updates a key after it has read it."""

    def work(transaction: Transaction) -> None:
        stored = transaction.key(record.access_key, None)
        assert stored is not None
        changed = replace(stored.key, purpose="renamed")
        transaction.apply(mutation(ChangeType.KEY_UPDATED, changed))

    return work


async def test_round_trips_of_a_group_do_not_grow_with_its_changes(
    url: str, open_one: PostgresStore, waits: list[Wait]
) -> None:
    """Changes that wait together read their records together, and send all writes at once."""
    records = await keys_of(open_one, 1, 40)
    writing = []
    with holding(url, "log"):
        first = asyncio.create_task(create_project(open_one))  # in a group of its own
        await asyncio.sleep(0)
        writing = [
            asyncio.create_task(
                open_one.write(renamed(record), reads=Reads(keys=(record.access_key,)))
            )
            for record in records
        ]
        await asyncio.sleep(0)
        waits.clear()
    await asyncio.gather(first, *writing)
    assert 2 * FEW >= waits.count(Wait.R)
    renames = "SELECT count(*) FROM key WHERE purpose = 'renamed'"
    assert [(len(records),)] == execute(url, renames)


async def test_counts_of_many_keys_are_written_in_few_round_trips(
    open_one: PostgresStore, waits: list[Wait]
) -> None:
    """A batch of counts delays a change by some round trips, not by three for each key."""
    records = await keys_of(open_one, 1, 100)
    rows = [usage_row(record) for record in records]
    waits.clear()
    await open_one.write(
        lambda opened: opened.count_usage("batch", rows, NOON, NOON + timedelta(days=1))
    )
    assert FEW >= waits.count(Wait.R)
    assert len(records) / 2 > len(waits)
    used = await open_one.get_key(records[-1].access_key, None)
    assert used is not None
    assert NOON == used.last_used_time


async def test_counts_of_many_keys_are_few_statements(
    open_one: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change waits for a batch of counts: its cost to the database is that of its rows."""
    records = await keys_of(open_one, 1, 100)
    uses = [PermissionUse(record.access_key, "a:read", NOON) for record in records]
    counts = [usage_row(record) for record in records]
    statements: list[str] = []
    run = PostgresRows._run

    def counting(rows: PostgresRows, statement: str, values: Sequence[Any]) -> Any:
        if threading.current_thread().name == "store-writer":
            statements.append(statement)
        return run(rows, statement, values)

    monkeypatch.setattr(PostgresRows, "_run", counting)
    end, observed = NOON + timedelta(days=1), Observations([], uses)
    await open_one.write(lambda opened: opened.count_usage("batch", counts, NOON, end, observed))
    assert 0 < len(statements) < 20
    stored = await open_one.query(lambda rows: rows.one("SELECT count(*) FROM permission_use"))
    assert (len(records),) == stored


async def test_failed_statement_fails_only_its_unit_of_a_group(
    url: str, open_one: PostgresStore
) -> None:
    """Statements are sent together, but a failure is still that of the unit that ran them."""

    def failing(transaction: Transaction, statement: str) -> None:
        transaction.apply(mutation(ChangeType.PROJECT_CREATED, project()))
        transaction._rows.run(statement)  # type: ignore[attr-defined]

    make = applying(mutation(ChangeType.PROJECT_CREATED, project()))
    with holding(url, "log"):
        writing: list[asyncio.Task[Any]] = [asyncio.create_task(open_one.write(make))]
        writing += [
            asyncio.create_task(open_one.write(partial(failing, statement=statement)))
            for statement in ("SELECT 1 / 0", "no statement")
        ]
        writing += [asyncio.create_task(create_project(open_one)) for _ in range(2)]
        await asyncio.sleep(0)
    outcomes = await asyncio.gather(*writing, return_exceptions=True)
    assert [False, True, True, False, False] == [isinstance(one, StoreError) for one in outcomes]
    assert [(3, 3)] == execute(url, "SELECT revision, (SELECT count(*) FROM change) FROM log")


async def test_commit_is_delivered_before_its_caller_goes_on(open_one: PostgresStore) -> None:
    """With the head that it follows, and the same content as in the log."""
    delivered: list[tuple[int, Sequence[Change]]] = []

    def deliver(head: Revision, changes: Sequence[Change]) -> bool:
        delivered.append((head, changes))
        return True

    open_one.deliver_commits(deliver)
    made = await create_project(open_one)
    await create(open_one, key(made.project_id, labels={"team": "shop"}))
    assert [0, 1] == [head for head, _ in delivered]
    log = await open_one.read_changes(0, 9)
    assert list(log.changes) == [change for _, changes in delivered for change in changes]
