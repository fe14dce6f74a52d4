"""PostgreSQL sessions: no role setting and no pooler weakens durability or freshness."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest

from keyauthority_server.store.counters import Counter, Spend
from keyauthority_server.store.interface import StoreError, StoreUnavailable, Transaction
from keyauthority_server.store.postgres import (
    PostgresStore,
    is_made,
    migrate,
    open_counters,
    open_store,
)
from keyauthority_server.store.sql.queries.lists import list_projects
from tests.pgbouncer import needs_pgbouncer, pooler
from tests.postgres import Cluster, commits_held_up, execute
from tests.service.processes import wait_until
from tests.store.factories import create, create_project, key, sign

ROLE: Final = "hostile"
WORKS: Final = {
    "client_min_messages": "error",
    "synchronous_commit": "off",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "search_path": "elsewhere, pg_catalog, public",
    "row_security": "on",
    "statement_timeout": "'900ms'",
    "lock_timeout": "'1ms'",
    "idle_in_transaction_session_timeout": "'1ms'",
    "transaction_timeout": "'900ms'",
    "TimeZone": "'Asia/Kathmandu'",
    "DateStyle": "'SQL, DMY'",
    "IntervalStyle": "sql_standard",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "standard_conforming_strings": "off",
    "array_nulls": "off",
    "plan_cache_mode": "force_generic_plan",
    "quote_all_identifiers": "on",
}
"""Settings of a role that make no difference."""
REFUSED: Final = {
    "session_replication_role": ("replica", "session_replication_role is replica"),
    "default_transaction_read_only": ("on", "read-only"),
    "search_path": ("nowhere", "names no schema"),
}
"""Settings that make a store refuse to open, and its message."""
SET_IN_EACH: Final = {
    "synchronous_commit": "on",
    "client_min_messages": "warning",
    "transaction_isolation": "read committed",
    "row_security": "off",
    "statement_timeout": "0",
    "lock_timeout": "4s",
}


@pytest.fixture(scope="module")
def hostile(cluster: Cluster) -> Iterator[Cluster]:
    """A cluster with a role of its own, which owns everything that it needs."""
    cluster.execute(f"CREATE ROLE {ROLE} LOGIN SUPERUSER")
    yield cluster
    cluster.execute(f"ALTER ROLE {ROLE} RESET ALL")


@contextmanager
def role_set(cluster: Cluster, name: str, value: str) -> Iterator[None]:
    """Set a default of the role for all sessions that begin inside."""
    cluster.execute(f"ALTER ROLE {ROLE} SET {name} = {value}")
    try:
        yield
    finally:
        cluster.execute(f"ALTER ROLE {ROLE} RESET ALL")


def as_role(url: str) -> str:
    """Return a URL of the tests' for the role."""
    return url.replace("postgres@", f"{ROLE}@")


async def check_everything_works(url: str) -> None:
    """Write, look, list, follow, beat and spend; look at the settings inside a write."""
    seen: dict[str, str] = {}

    def settings(transaction: Transaction) -> None:
        rows: Any = transaction._rows  # type: ignore[attr-defined]
        seen.update({name: rows.one(f"SHOW {name}")[0] for name in SET_IN_EACH})

    store, counters = open_store(url, sign), open_counters(url)
    try:
        await store.start_heartbeats(5)
        owner = await create_project(store)
        made = await create(store, key(owner.project_id))
        for _ in range(8):  # more often than it takes until a statement is prepared
            assert made.access_key == (await looked(store, made.access_key))
            assert store.proven_at > 0
            assert 2 == (await store.read_changes(0, 10)).head
        listed, _ = await store.query(list_projects, None, 0, 10)
        assert [owner.project_id] == [one.project_id for one in listed]
        spend = Spend((Counter("one", 0, 2),), 1)
        results = [(await counters.spend([spend]))[0][0].fits for _ in range(3)]
        assert [True, True, False] == results
        await store.write(settings)
        assert seen == SET_IN_EACH
    finally:
        await store.close()
        await counters.close()


async def looked(store: PostgresStore, access_key: str) -> str | None:
    """Look a key up, proven by a beat."""
    proven = await store.read_dated([access_key], None)
    held = proven.snapshots.pairs[0][0]
    return held.key.access_key if held else None


@pytest.mark.parametrize("name", WORKS)
async def test_role_settings_make_no_difference(name: str, url: str, hostile: Cluster) -> None:
    """Each transaction sets every parameter that it depends on."""
    execute(
        url, "CREATE SCHEMA IF NOT EXISTS elsewhere; CREATE TABLE IF NOT EXISTS elsewhere.log()"
    )
    with role_set(hostile, name, WORKS[name]):
        await check_everything_works(as_role(url))


@pytest.mark.parametrize("name", REFUSED)
def test_setting_that_cannot_be_overridden_is_refused(
    name: str, url: str, hostile: Cluster
) -> None:
    """Disabled triggers, a read-only session and an unusable search_path are refused."""
    value, told = REFUSED[name]
    with role_set(hostile, name, value), pytest.raises(StoreError, match=told) as refused:
        open_store(as_role(url), sign)
    assert 1 == len(str(refused.value).splitlines())


@needs_pgbouncer
@pytest.mark.parametrize(("mode", "size"), [("session", 7), ("transaction", 3)])
async def test_pooler_makes_no_difference(mode: str, size: int, url: str, hostile: Cluster) -> None:
    """Both pool modes work under a hostile role, in pools as small as docs/postgresql.md says."""
    database = url.partition("?")[0].rpartition("/")[2]
    hostile.execute(f"ALTER ROLE {ROLE} RESET ALL")
    for name, value in WORKS.items():
        hostile.execute(f"ALTER ROLE {ROLE} SET {name} = {value}")
    execute(
        url, "CREATE SCHEMA IF NOT EXISTS elsewhere; CREATE TABLE IF NOT EXISTS elsewhere.log()"
    )
    try:
        with pooler(hostile, mode, ROLE, size=size) as one:
            await check_everything_works(one.url(database, ROLE))
    finally:
        hostile.execute(f"ALTER ROLE {ROLE} RESET ALL")


@needs_pgbouncer
async def test_revocation_through_a_pooler_waits_for_the_standby(
    url: str, hostile: Cluster
) -> None:
    """In transaction mode with synchronous_commit off, no standby means no answer."""
    database = url.partition("?")[0].rpartition("/")[2]
    with (
        role_set(hostile, "synchronous_commit", "off"),
        pooler(hostile, "transaction", ROLE) as one,
    ):
        store = open_store(one.url(database, ROLE), sign)
        try:
            await create_project(store)
            with commits_held_up(hostile):
                writing = asyncio.create_task(create_project(store))
                await asyncio.to_thread(wait_until, lambda: cancelled(url))
                with pytest.raises(StoreUnavailable, match="before a standby had it"):
                    await writing
        finally:
            await store.close()


async def test_cancelled_replication_is_noticed_at_any_message_level(
    url: str, hostile: Cluster
) -> None:
    """The warning about an unreplicated COMMIT arrives under client_min_messages=error."""
    with role_set(hostile, "client_min_messages", "error"):
        store = open_store(as_role(url), sign)
        try:
            await create_project(store)
            with commits_held_up(hostile):
                writing = asyncio.create_task(create_project(store))
                await asyncio.to_thread(wait_until, lambda: cancelled(url))
                with pytest.raises(StoreUnavailable, match="before a standby had it"):
                    await writing
        finally:
            await store.close()


def cancelled(url: str) -> bool:
    """Cancel a commit that waits for a standby; False if none waits yet."""
    waiting = (
        "SELECT pg_cancel_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event = 'SyncRep'"
    )
    return bool(execute(url, waiting) == [(True,)])


async def test_role_changed_under_a_running_store_makes_no_difference(
    url: str, hostile: Cluster
) -> None:
    """New sessions of a running store apply their own settings as well."""
    store = open_store(as_role(url), sign)
    try:
        await create_project(store)
        with role_set(hostile, "synchronous_commit", "off"):
            execute(url, _END_OTHERS)
            seen: list[str] = []

            def work(transaction: Transaction) -> None:
                rows: Any = transaction._rows  # type: ignore[attr-defined]
                seen.append(rows.one("SHOW synchronous_commit")[0])

            await store.write(work)
            assert ["on"] == seen
    finally:
        await store.close()


_END_OTHERS: Final = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE usename = 'hostile' AND datname = current_database()"
)


def test_extension_in_the_schema_is_ignored(cluster: Cluster) -> None:
    """Tables owned by an extension do not make a database foreign."""
    empty = cluster.create()
    execute(empty, "CREATE TABLE owned (a INT)")
    execute(empty, "ALTER EXTENSION plpgsql ADD TABLE owned")
    execute(empty, "CREATE VIEW seen AS SELECT 1")
    assert not is_made(empty)
    migrate(empty)
    assert is_made(empty)
