"""PostgreSQL: trust in a server after a failover, and the wake-up of the log's readers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from psycopg.conninfo import conninfo_to_dict

from keyauthority_server.store.interface import Store, StoreUnavailable, Transaction
from keyauthority_server.store.postgres import PostgresStore, open_store, reader
from keyauthority_server.store.postgres import store as postgres_store
from keyauthority_server.store.postgres.connection import parameters
from keyauthority_server.store.postgres.heartbeat import BEAT_PATIENCE
from keyauthority_server.store.postgres.rows import PostgresRows
from keyauthority_server.store.sql.queries.lists import list_projects
from tests.postgres import Cluster, commits_held_up, end_sessions, execute
from tests.service.processes import wait_until
from tests.store.factories import create_project, sign


async def test_commits_stay_synchronous_when_defaults_change_meanwhile(
    cluster: Cluster, url: str, open_one: Store
) -> None:
    """Changing a default under open connections does not affect their commits."""
    seen: list[str] = []

    def work(transaction: Transaction) -> None:
        rows: PostgresRows = transaction._rows  # type: ignore[attr-defined]
        seen.append(rows.one("SHOW synchronous_commit")[0])

    await open_one.write(work)
    try:
        cluster.execute("ALTER SYSTEM SET synchronous_commit = off")
        cluster.execute("SELECT pg_reload_conf()")
        wait_until(lambda: [("off",)] == cluster.execute("SHOW synchronous_commit"))
        await open_one.write(work)
    finally:
        cluster.execute("ALTER SYSTEM RESET synchronous_commit")
        cluster.execute("SELECT pg_reload_conf()")
    assert ["on", "on"] == seen


@pytest.mark.parametrize(
    "exchange",
    [
        "UPDATE log SET revision = 1",
        "UPDATE log SET log_id = '00000000-0000-4000-8000-000000000000'",
    ],
    ids=["changes lost", "another log"],
)
async def test_database_behind_the_observed_head_is_refused(
    url: str, open_one: Store, exchange: str
) -> None:
    """A failover to a server without acknowledged changes, or to another log, is refused."""
    for _ in range(2):
        await create_project(open_one)
    execute(url, exchange)
    end_sessions(url)
    with pytest.raises(StoreUnavailable):
        await open_one.read(None, None)
    with pytest.raises(StoreUnavailable):
        await open_one.log_head()
    with pytest.raises(StoreUnavailable):
        await open_one.read_changes(0, 1)


async def test_database_with_a_diverged_log_is_refused(
    cluster: Cluster, url: str, open_one: Store
) -> None:
    """A failover lost changes and others took their revision numbers.

    A reader of the lost changes would never receive the new ones.
    """
    await create_project(open_one)
    end_sessions(url)
    name, fork, lost = str(conninfo_to_dict(url)["dbname"]), cluster.create(), "lost"
    forked = str(conninfo_to_dict(fork)["dbname"])
    cluster.execute(f"DROP DATABASE {forked}")
    cluster.execute(f"CREATE DATABASE {forked} TEMPLATE {name}")
    await create_project(open_one)
    await open_one.read(None, None)
    end_sessions(url)
    other = open_store(fork, sign)
    for _ in range(2):
        await create_project(other)
    await other.close()
    cluster.execute(f"ALTER DATABASE {name} RENAME TO {lost}")
    cluster.execute(f"ALTER DATABASE {forked} RENAME TO {name}")
    reads: tuple[Callable[[], Awaitable[object]], ...] = (
        lambda: open_one.read(None, None),
        lambda: open_one.read_changes(0, 1),
    )
    for read in reads:
        with pytest.raises(StoreUnavailable, match="lacks the change 2 that was seen"):
            await read()
    cluster.execute(f"DROP DATABASE {lost}")
    await anew(url)


async def anew(url: str) -> None:
    """See that a store that has seen nothing yet takes the database as it is."""
    store = open_store(url, sign)
    assert 3 == (await store.read(None, None)).head
    await store.close()


async def test_read_without_a_committed_heartbeat_moves_to_another_connection(
    url: str, open_one: PostgresStore
) -> None:
    """A connection to a replaced database is dropped though it still answers."""
    await open_one.start_heartbeats(60)
    before = (await open_one.read_dated((), None)).as_of
    tailed = (await open_one.read_changes(0, 1)).as_of
    assert open_one.proven_at == before == tailed
    execute(url, "DELETE FROM heartbeat")  # the state seen by a connection to the old primary
    reads: tuple[Callable[[], Awaitable[object]], ...] = (
        lambda: open_one.read_dated((), None),
        lambda: open_one.read_changes(0, 1),
    )
    for read in reads:
        with pytest.raises(StoreUnavailable, match="was replaced"):
            await read()


async def test_commit_notification_wakes_followers_and_is_not_required(
    url: str, open_one: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notification ends a follower's wait; without notifications it polls."""
    monkeypatch.setattr(postgres_store, "HEARING_POLL_SECONDS", HANGING)
    other = open_store(url, sign)
    listening = open_one._listening
    for head in (1, 2):
        while not listening.connected:
            await open_one.wait_for_changes(HANGING)  # as often as one who is deaf looks
        await open_one.wait_for_changes(0)
        waiting = asyncio.create_task(open_one.wait_for_changes(HANGING))
        await asyncio.sleep(0)
        assert head == (await create_project(other)).revision
        await asyncio.wait_for(waiting, HANGING / 2)
        assert head == (await open_one.read_changes(0, 9)).head
        execute(url, _END_LISTENERS)
        await asyncio.to_thread(wait_until, lambda: not listening.connected)
        await asyncio.wait_for(open_one.wait_for_changes(HANGING), HANGING / 2)
    await other.close()


RECOVERY_SECONDS = 5.0
HANGING = 20.0  # seconds; of a test that hangs
_END_LISTENERS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND query LIKE 'LISTEN%'"
)


async def test_old_primary_that_still_answers_is_rejected(url: str, open_one: Store) -> None:
    """A connection whose log ends before an observed revision gives no answer."""
    for _ in range(2):
        await create_project(open_one)
    reads: tuple[Callable[[], Awaitable[object]], ...] = (
        lambda: open_one.read(None, None),
        lambda: open_one.query(list_projects, None, 0, 9),
        lambda: open_one.read_changes(2, 9),
    )
    for read in reads:
        await read()
    execute(url, "UPDATE log SET revision = 1")  # the state seen by the readers' connections
    for read in reads:
        with pytest.raises(StoreUnavailable, match="ends at 1, but has acknowledged 2"):
            await read()


async def test_commit_cancelled_before_replication_is_unknown(
    cluster: Cluster, url: str, open_one: Store
) -> None:
    """The server reports COMMIT with a warning; the caller gets an unknown outcome."""
    await create_project(open_one)
    with commits_held_up(cluster):
        writing = asyncio.create_task(create_project(open_one))
        await asyncio.to_thread(wait_until, lambda: execute(url, _CANCEL_WAITING) == [(True,)])
        with pytest.raises(StoreUnavailable, match="before a standby had it"):
            await writing
    assert 3 == (await create_project(open_one)).revision  # it was made, as it may be


_CANCEL_WAITING = (
    "SELECT pg_cancel_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND wait_event = 'SyncRep'"
)


def test_silent_host_is_abandoned_within_the_bound(url: str) -> None:
    """The longest timeouts of all kinds, plus a silent first host, fit into the bound."""
    told = parameters(url)
    silences = (reader.PATIENCE.statement, BEAT_PATIENCE, told["tcp_user_timeout"] / 1000)
    assert max(silences) + told["connect_timeout"] <= RECOVERY_SECONDS
