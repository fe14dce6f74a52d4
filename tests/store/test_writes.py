"""Writes that wait, time out, do not fit, or hit a failing disk."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from keyauthority.model import ChangeType
from keyauthority_server.store.interface import Store, StoreFull, StoreUnavailable, Transaction
from keyauthority_server.store.postgres.rows import PostgresRows
from keyauthority_server.store.sqlite import writer
from keyauthority_server.store.sqlite.connection import SqliteRows, sqlite3
from tests.store.engine_only import only
from tests.store.engines import Engine, digests
from tests.store.factories import applying, create, create_project, key, mutation, operator, project


async def test_cancelled_caller_does_not_stop_its_write(
    store: Store, engine: Engine, place: str
) -> None:
    """A cancelled write that was submitted commits as if its caller had stayed."""
    gone = project()
    with engine.writers_held_up(place):
        writing = asyncio.create_task(
            store.write(applying(mutation(ChangeType.PROJECT_CREATED, gone)))
        )
        await asyncio.sleep(0)
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
    await create_project(store)  # comes after it
    assert await store.get_project(gone.project_id, None) is not None
    assert [(2,)] == engine.rows(place, "SELECT revision FROM log")


async def test_write_that_timed_out_in_the_queue_is_never_executed(
    store: Store, engine: Engine, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """UNAVAILABLE before the unit started means nothing is written later; writes recover."""
    write_timeout, _ = engine.timeouts
    monkeypatch.setattr(write_timeout, 0.05)
    late = project()
    with engine.writers_held_up(place):
        assert (0, None, None, None) == await store.read(None, None)  # reads go on
        with pytest.raises(StoreUnavailable):
            await store.write(applying(mutation(ChangeType.PROJECT_CREATED, late)))
    monkeypatch.setattr(write_timeout, 5.0)
    await create_project(store)
    assert await store.get_project(late.project_id, None) is None


async def test_write_that_timed_out_while_running_may_commit(
    store: Store, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """UNAVAILABLE after the unit started means an unknown outcome: complete or absent."""
    write_timeout, _ = engine.timeouts
    monkeypatch.setattr(write_timeout, 0.05)
    begun, go_on, slow = threading.Event(), threading.Event(), project()

    def work(transaction: Transaction) -> None:
        begun.set()
        go_on.wait(10)
        transaction.apply(mutation(ChangeType.PROJECT_CREATED, slow))

    while not begun.is_set():  # on a busy machine it may be too late before that
        with pytest.raises(StoreUnavailable):
            await store.write(work)
    monkeypatch.setattr(write_timeout, 5.0)
    go_on.set()
    await create_project(store)
    assert await store.get_project(slow.project_id, None) is not None


async def test_waiting_writes_share_a_commit(
    store: Store, engine: Engine, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writes that wait at the same time are committed together."""
    commits: list[str] = []
    run, commit = SqliteRows.run, PostgresRows.commit

    def noted(rows: SqliteRows, statement: str, values: Sequence[Any] = ()) -> None:
        commits.extend([statement] if statement == "COMMIT" else [])
        run(rows, statement, values)

    def noted_commit(rows: PostgresRows) -> None:
        commits.append("COMMIT")
        commit(rows)

    monkeypatch.setattr(SqliteRows, "run", noted)
    monkeypatch.setattr(PostgresRows, "commit", noted_commit)
    with engine.writers_held_up(place):
        writing = asyncio.gather(*(create_project(store) for _ in range(50)))
        await asyncio.sleep(0)
    assert set(range(1, 51)) == {one.revision for one in await writing}
    assert 1 <= len(commits) <= 2


async def test_rolled_back_records_are_not_read_again(
    store: Store, engine: Engine, place: str
) -> None:
    """A later change that takes the same revision does not see the undone records."""
    owner = await create_project(store)
    made = await create(store, key(owner.project_id))

    def renaming(name: str, *, fails: bool = False) -> Callable[[Transaction], list[str]]:
        def work(transaction: Transaction) -> list[str]:
            for type_, record in (
                (ChangeType.KEY_UPDATED, replace(made, purpose=name)),
                (ChangeType.PROJECT_UPDATED, replace(owner, display_name=name)),
            ):
                transaction.apply(mutation(type_, record))
            assert transaction.head == made.revision + 2
            held_now = transaction.key(made.access_key, None)
            project_now = transaction.project(owner.project_id, None)
            assert held_now
            assert project_now
            if fails:
                raise ValueError("taken back")
            return [held_now.key.purpose, project_now.display_name]

        return work

    with engine.writers_held_up(place):
        undone = asyncio.ensure_future(store.write(renaming("first", fails=True)))
        done = asyncio.ensure_future(store.write(renaming("second")))
        await asyncio.sleep(0)
    with pytest.raises(ValueError, match="taken back"):
        await undone
    assert ["second", "second"] == await done


async def test_close_finishes_submitted_writes(engine: Engine, place: str) -> None:
    """Writes submitted before close are committed and answered; later ones are refused."""
    store = engine.open(place)
    writing = [asyncio.create_task(create_project(store)) for _ in range(30)]
    await asyncio.sleep(0)
    await store.close()
    assert 30 == len(await asyncio.gather(*writing))
    with pytest.raises(StoreUnavailable):
        await create_project(store)
    assert [(30,)] == engine.rows(place, "SELECT revision FROM log")


@only("sqlite", because="no limit can be set to what PostgreSQL's disk holds")
async def test_full_database_refuses_writes_and_recovers(
    store: Store, engine: Engine, place: str
) -> None:
    """Without space a write is StoreFull and leaves nothing; reads work; with space it works."""
    owner = await create_project(store)
    root = await create(store, operator())
    await store.write(_limit_pages(1))
    with pytest.raises(StoreFull):
        await _create_many(store, owner.project_id)
    tables = digests(engine, place)
    head = (await store.read(None, None)).head
    assert (head, head - 1) == (len(tables["change"]), len(tables["key"]))
    assert root == await store.get_key(root.access_key, None)
    await store.write(_limit_pages(2**30))
    assert await create(store, key(owner.project_id)) is not None


async def _create_many(store: Store, project_id: str) -> None:
    for _ in range(200):
        await create(store, key(project_id))


def _limit_pages(pages: int) -> Any:
    """Return work that limits the writer to its present pages, or to this many."""

    def work(transaction: Any) -> None:
        transaction._rows.one(f"PRAGMA max_page_count = {pages}")

    return work


class FailingConnection(sqlite3.Connection):
    """A connection whose COMMIT fails on order, as if the disk failed."""

    failing: ClassVar[bool] = False

    def cursor(self, *args: Any) -> Any:
        """Return a cursor that fails with it."""
        return super().cursor(FailingCursor)


class FailingCursor(sqlite3.Cursor):
    """See FailingConnection."""

    def execute(self, statement: str, values: Any = ()) -> Any:
        """Run the statement, or fail."""
        if statement == "COMMIT" and FailingConnection.failing:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = 1034  # SQLITE_IOERR_FSYNC
            raise error
        return super().execute(statement, values)


@only("sqlite", because="PostgreSQL ends itself when a sync fails")
async def test_failed_commit_stops_all_acknowledgements(
    engine: Engine, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failed sync nothing is acknowledged, even if the disk seems to work again."""
    connect = sqlite3.connect
    monkeypatch.setattr(
        sqlite3,
        "connect",
        lambda *args, **given: connect(*args, factory=FailingConnection, **given),
    )
    store = engine.open(place)
    owner = await create_project(store)
    monkeypatch.setattr(FailingConnection, "failing", True)
    with pytest.raises(StoreUnavailable):
        await create_project(store)
    monkeypatch.setattr(FailingConnection, "failing", False)
    with pytest.raises(StoreUnavailable):
        await create_project(store)
    assert owner == await store.get_project(owner.project_id, None)
    await store.close()
    assert [(1,)] == engine.rows(place, "SELECT revision FROM log")


@only("sqlite", because="the others have no file to exchange")
async def test_replaced_database_file_is_noticed(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its file was moved away, a store raises instead of serving an old state."""
    monkeypatch.setattr(writer, "IDLE_SECONDS", 0.01)
    place = engine.make(tmp_path)
    store = engine.open(place)
    await create_project(store)
    os.rename(place, place + ".aside")  # noqa: PTH104  # pathlib counts as blocking in a coroutine
    with pytest.raises(StoreUnavailable):
        await create_project(store)
    with pytest.raises(StoreUnavailable):
        await store.read(None, None)
    await store.close()
