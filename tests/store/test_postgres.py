"""PostgreSQL: which databases are opened, and recovery from lost connections."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any

import psycopg
import pytest

from keyauthority.model import ChangeType
from keyauthority_server.store.counters import Counter, Spend
from keyauthority_server.store.interface import (
    Store,
    StoreError,
    StoreUnavailable,
    StoreUnusable,
    Transaction,
)
from keyauthority_server.store.migrations import Dialect, Run, Step
from keyauthority_server.store.postgres import (
    PostgresStore,
    counters,
    is_made,
    migrate,
    open_counters,
    open_store,
    reader,
    schema,
)
from keyauthority_server.store.postgres.connection import (
    ConnectionLost,
    Patience,
    connect,
    parameters,
)
from keyauthority_server.store.postgres.rows import PostgresRows
from keyauthority_server.store.postgres.writer import PATIENCE
from tests.postgres import Cluster, end_sessions, execute
from tests.store.engines import POSTGRES, digests
from tests.store.factories import applying, create_project, mutation, project, sign


@pytest.fixture
def empty(cluster: Cluster) -> str:
    """A database without tables."""
    return cluster.create()


def refusal(url: str) -> str:
    """Return the one line with which both migrate and open refuse a database."""
    with pytest.raises(StoreUnusable) as refused:
        open_store(url, sign)
    with pytest.raises(StoreUnusable):
        migrate(url)
    assert 1 == len(str(refused.value).splitlines())
    return str(refused.value)


def test_database_of_another_application_is_refused(empty: str) -> None:
    """A database with foreign tables is refused and left untouched."""
    execute(empty, "CREATE TABLE theirs (a INT)")
    assert "another application" in refusal(empty)
    assert [("theirs",)] == execute(
        empty, "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
    )


@pytest.mark.case(25)
def test_newer_schema_is_refused(empty: str) -> None:
    """A database migrated by a newer version is neither opened nor migrated."""
    migrate(empty)
    execute(empty, "INSERT INTO keyauthority_migration VALUES ('9999_later')")
    assert "9999_later" in refusal(empty)


def test_only_migrate_initializes_an_empty_database(empty: str) -> None:
    """Opening refuses an empty database and leaves it empty."""
    assert not is_made(empty)
    with pytest.raises(StoreUnusable, match="run migrate"):
        open_store(empty, sign)
    with pytest.raises(StoreUnusable, match="run migrate"):
        open_counters(empty)
    assert not is_made(empty)
    migrate(empty)
    assert is_made(empty)


def test_failed_migration_rolls_back_and_can_be_repeated(
    empty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If one step fails none is applied; the next start applies them all."""
    failing = [True]

    def last(run: Run, dialect: Dialect) -> None:
        run("CREATE TABLE last (a INT)")
        if failing:
            raise OSError("killed")

    monkeypatch.setattr(schema, "ALL_STEPS", (*schema.ALL_STEPS, Step("9999_last", last)))
    with pytest.raises(OSError, match="killed"):
        migrate(empty)
    assert not is_made(empty)
    failing.clear()
    migrate(empty)
    assert [(0,)] == execute(empty, "SELECT count(*) FROM last")


async def test_migrate_twice_changes_nothing(url: str, open_one: Store) -> None:
    """Migrate may run at every start, beside a running server."""
    await create_project(open_one)
    before = digests(POSTGRES, url)
    migrate(url)
    assert before == digests(POSTGRES, url)


def test_text_columns_compare_bytewise(url: str) -> None:
    """No text uses the database's collation; pages have the same order everywhere."""
    assert [("C",)] == execute(
        url,
        "SELECT DISTINCT collation_name FROM information_schema.columns"
        " WHERE table_schema = 'public' AND data_type = 'text'",
    )


async def test_commits_are_synchronous_for_every_role_setting(url: str) -> None:
    """A role with synchronous_commit off does not make acknowledged changes losable."""
    seen: list[str] = []
    store = open_store(f"{url}&options=-csynchronous_commit%3Doff", sign)

    def work(transaction: Transaction) -> None:
        rows: PostgresRows = transaction._rows  # type: ignore[attr-defined]
        seen.append(rows.one("SHOW synchronous_commit")[0])

    await store.write(work)
    await store.close()
    assert ["on"] == seen


def test_standby_is_refused_and_idle_transactions_end(url: str) -> None:
    """Connections require a primary, and the server ends an idle transaction."""
    assert "read-write" == parameters(url)["target_session_attrs"]
    connection = connect(parameters(url), PATIENCE)
    row = connection.execute("SHOW idle_in_transaction_session_timeout").fetchone()
    connection.close()
    assert (f"{PATIENCE.idle}s",) == row


async def test_lost_connections_are_replaced_transparently(url: str, open_one: Store) -> None:
    """After its sessions were ended, a store reads, writes and spends without an error."""
    opened = open_counters(url)
    wanted = (Spend((Counter("a", 0, 9),), 1),)
    for revision in (1, 2, 3):
        made = await create_project(open_one)
        assert revision == made.revision
        assert made == await open_one.get_project(made.project_id, None)
        assert revision == (await open_one.log_head()).revision
        assert revision == (await open_one.read_changes(0, 9)).head
        assert revision == (await opened.spend(wanted))[0][0].used
        end_sessions(url)
    await opened.close()


async def test_work_that_lost_its_connection_before_commit_runs_once(
    url: str, open_one: Store
) -> None:
    """A transaction that never sent COMMIT left nothing and is safely retried."""
    runs: list[int] = []
    make = applying(mutation(ChangeType.PROJECT_CREATED, project()))

    def work(transaction: Transaction) -> object:
        runs.append(1)
        made = make(transaction)
        if len(runs) == 1:
            end_sessions(url)
        return made

    await open_one.write(work)
    assert 2 == len(runs)
    assert [(1, 1)] == execute(url, "SELECT revision, (SELECT count(*) FROM change) FROM log")


async def test_connection_reset_at_any_statement_neither_loses_nor_repeats(
    url: str, open_one: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever statement hits the reset, the change is made once or never sent to commit."""
    run, left = PostgresRows._run, [0]
    writer_rows = open_one._writer._rows
    steps: list[str] = []

    def reset(rows: PostgresRows, statement: str, values: Sequence[Any]) -> Any:
        if rows is writer_rows and "NOTIFY" not in statement:  # which comes behind the answer
            if not left[0]:
                steps.append(statement)
                end_sessions(url)
            left[0] -= 1
        return run(rows, statement, values)

    monkeypatch.setattr(PostgresRows, "_run", reset)
    made = unknown = 0
    for step in count():
        left[0] = step
        try:
            await create_project(open_one)
        except StoreUnavailable:
            assert "COMMIT" == steps[-1]
            unknown += 1
        else:
            made += 1
        if left[0] >= 0:
            break  # all are used
    assert 1 == unknown
    assert [(made, made)] == execute(url, "SELECT revision, (SELECT count(*) FROM change) FROM log")


async def test_serialization_failure_is_retried_once(url: str, open_one: Store) -> None:
    """The server rolls back the whole group; its units run again, each taking effect once."""
    runs: list[int] = []
    make = applying(mutation(ChangeType.PROJECT_CREATED, project()))

    def work(transaction: Transaction) -> None:
        make(transaction)
        runs.append(1)
        if len(runs) == 1:
            rows: PostgresRows = transaction._rows  # type: ignore[attr-defined]
            rows.run("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40001'; END $$")

    await asyncio.gather(create_project(open_one), open_one.write(work), create_project(open_one))
    assert 2 == len(runs)
    assert [(3, 3)] == execute(url, "SELECT revision, (SELECT count(*) FROM change) FROM log")


async def test_commit_with_lost_answer_is_unknown_and_not_repeated(
    url: str, open_one: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the answer to COMMIT is lost, the caller learns that the outcome is unknown."""
    runs: list[int] = []
    make = applying(mutation(ChangeType.PROJECT_CREATED, project()))
    commit = PostgresRows.commit

    def work(transaction: Transaction) -> None:
        runs.append(1)
        make(transaction)

    def commit_and_lose(rows: PostgresRows) -> None:
        commit(rows)
        raise ConnectionLost("the answer is lost")

    monkeypatch.setattr(PostgresRows, "commit", commit_and_lose)
    with pytest.raises(StoreUnavailable):
        await open_one.write(work)
    monkeypatch.undo()
    assert 2 == (await create_project(open_one)).revision
    assert [(2,)] == execute(url, "SELECT revision FROM log")
    assert 1 == len(runs)


async def test_silent_server_times_out_and_recovers(
    url: str, open_one: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hanging server makes reads UNAVAILABLE within their deadline; later they recover."""
    monkeypatch.setattr(reader, "READ_SECONDS", 0.2)
    await open_one.read(None, None)
    with frozen_sessions(url), pytest.raises(StoreUnavailable):
        await open_one.read(None, None)
    monkeypatch.undo()
    assert 0 == (await open_one.read(None, None)).head


def test_slow_statement_is_abandoned_with_its_connection(url: str) -> None:
    """A statement past its deadline is not cancelled, like a COMMIT; its connection is dropped."""
    impatient = Patience(statement=0.2, server=0, lock=1, idle=1)
    rows = PostgresRows(parameters(url), impatient, lambda _: None)
    rows.ready()
    with pytest.raises(ConnectionLost):
        rows.one("SELECT pg_sleep(60)")
    sleeping = "SELECT state FROM pg_stat_activity WHERE query LIKE '%pg_sleep%' AND state = ?"
    rows.ready()
    assert ("active",) == rows.one(sleeping, ("active",))
    rows.drop()


@contextmanager
def frozen_sessions(url: str) -> Iterator[None]:
    """Stop the processes of all other sessions of the database, as a frozen machine does."""
    pids = execute(
        url,
        "SELECT pid FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    for (pid,) in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for (pid,) in pids:
            os.kill(pid, signal.SIGCONT)


async def test_plan_for_an_empty_table_of_counters_uses_its_index(url: str) -> None:
    """A session keeps the plan: with a scan of the table, each spend would get slower with it."""
    rows = PostgresRows(parameters(url), counters.PATIENCE, lambda _: None)
    rows.begin(counters._OPEN)
    plan = "\n".join(line for (line,) in rows.each(f"EXPLAIN {counters._LOCK}", (["a", "b"],)))
    rows.drop()
    assert "counter_pkey" in plan


async def test_counters_spent_in_opposite_order_do_not_deadlock(url: str) -> None:
    """Two servers that spend the same counters in opposite order both succeed."""
    names = [f"c{number:02}" for number in range(20)]
    pair = [open_counters(url) for _ in range(2)]
    orders = [tuple(Counter(name, 0, 9) for name in one) for one in (names, names[::-1])]
    await pair[0].spend((Spend(orders[0], 1),))
    with psycopg.connect(url) as holder:
        holder.execute("SELECT 1 FROM counter WHERE name = 'c10' FOR UPDATE")
        spending = [
            asyncio.create_task(one.spend((Spend(order, 1),)))
            for one, order in zip(pair, orders, strict=True)
        ]
        for _ in range(1_000):
            if execute(url, _WAITING) == [(2,)]:
                break
            await asyncio.sleep(0.01)
    results = await asyncio.gather(*spending)
    assert [2, 3] == sorted(states[0][0].used for states in results)
    for one in pair:
        await one.close()


_WAITING = (
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE datname = current_database() AND wait_event_type = 'Lock'"
)


async def test_swallowed_statement_failure_undoes_only_its_unit(url: str, open_one: Store) -> None:
    """A unit that continues after a failed statement does not commit; its neighbours do."""

    def careless(transaction: Transaction) -> None:
        rows: PostgresRows = transaction._rows  # type: ignore[attr-defined]
        with suppress(StoreError):
            rows.run("UPDATE log SET revision = -1")

    outcomes = await asyncio.gather(
        create_project(open_one),
        open_one.write(careless),
        create_project(open_one),
        return_exceptions=True,
    )
    assert [False, True, False] == [isinstance(one, Exception) for one in outcomes]
    assert [(2,)] == execute(url, "SELECT revision FROM log")
