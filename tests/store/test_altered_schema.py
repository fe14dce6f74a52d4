"""A database whose schema differs from that of its migrations is not opened.

A trigger smuggled into a backup could undo each later revocation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from keyauthority_server.store import postgres
from keyauthority_server.store.interface import Store, StoreUnusable
from keyauthority_server.store.postgres.connection import parameters
from keyauthority_server.store.postgres.reader import PATIENCE
from keyauthority_server.store.postgres.rows import PostgresRows
from keyauthority_server.store.postgres.schema import schema_differences
from keyauthority_server.store.sqlite.backup import back_up, check_copy
from keyauthority_server.store.sqlite.connection import sqlite3
from keyauthority_server.store.sqlite.counters import counters_path
from keyauthority_server.store.sqlite.restore import drafted
from keyauthority_server.store.sqlite.store import migrate, open_counters, open_store
from keyauthority_server.store.sqlite.transfer import SqliteEndpoint
from tests.postgres import Cluster, execute
from tests.store.factories import create_project, sign

SMUGGLED: Final = (
    "CREATE TRIGGER undo AFTER UPDATE ON key WHEN NEW.revoke_time IS NOT NULL BEGIN"
    " UPDATE key SET revoke_time = NULL WHERE access_key = NEW.access_key; END"
)
SQLITE: Final = {
    "trigger": (SMUGGLED, "the trigger 'undo'"),
    "trigger on the log": (
        "CREATE TRIGGER hide BEFORE INSERT ON change BEGIN SELECT raise(IGNORE); END",
        "the trigger 'hide'",
    ),
    "trigger dropped": ("DROP TRIGGER change_is_not_updated", "lacks the trigger"),
    "view": ("CREATE VIEW spare AS SELECT * FROM key", "the view 'spare'"),
    "view for a table": (
        "ALTER TABLE refused RENAME TO theirs; CREATE VIEW refused AS SELECT * FROM theirs",
        "the table 'theirs'",
    ),
    "table": ("CREATE TABLE spare (a)", "the table 'spare'"),
    "index": ("CREATE INDEX spare ON key (purpose)", "the index 'spare'"),
    "unique index": ("CREATE UNIQUE INDEX spare ON key (revoke_time)", "the index 'spare'"),
    "index dropped": ("DROP INDEX change_by_key", "lacks the index"),
    "index of other columns": (
        "DROP INDEX change_by_key; CREATE INDEX change_by_key ON change (access_key, time)",
        "the index 'change_by_key' is not",
    ),
    "column": ("ALTER TABLE key ADD COLUMN spare INTEGER", "the table 'key' is not"),
    "generated column": (
        "ALTER TABLE key ADD COLUMN spare INTEGER AS (revoke_time) VIRTUAL",
        "the table 'key' is not",
    ),
    "constraint gone": (
        (
            "PRAGMA writable_schema = ON;"
            " UPDATE sqlite_schema SET sql = replace(sql, 'NOT NULL', '')"
            " WHERE name = 'key'; PRAGMA writable_schema = RESET"
        ),
        "the table 'key' is not",
    ),
}
POSTGRES: Final = {
    "trigger": (
        (
            "CREATE FUNCTION undo() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN NEW.revoke_time = NULL; RETURN NEW; END $$;"
            " CREATE TRIGGER undo BEFORE UPDATE ON key FOR EACH ROW EXECUTE FUNCTION undo()"
        ),
        "function 'undo()'",
    ),
    "trigger of a function in another schema": (
        (
            "CREATE SCHEMA theirs;"
            " CREATE FUNCTION theirs.undo() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN NEW.revoke_time = NULL; RETURN NEW; END $$;"
            " CREATE TRIGGER undo BEFORE UPDATE ON key FOR EACH ROW EXECUTE FUNCTION theirs.undo()"
        ),
        "the trigger 'undo' of 'key'",
    ),
    "trigger disabled": ("ALTER TABLE change DISABLE TRIGGER ALL", "is not as the migrations"),
    "trigger dropped": (
        "DROP TRIGGER change_is_append_only ON change",
        "lacks the trigger 'change_is_append_only' of 'change'",
    ),
    "function replaced": (
        (
            "CREATE OR REPLACE FUNCTION change_is_append_only() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RETURN NULL; END $$"
        ),
        "the function 'change_is_append_only()' is not",
    ),
    "rule": (
        "CREATE RULE keep AS ON UPDATE TO key DO INSTEAD NOTHING",
        "the rule 'keep' of 'key'",
    ),
    "row security": (
        "ALTER TABLE key ENABLE ROW LEVEL SECURITY; ALTER TABLE key FORCE ROW LEVEL SECURITY",
        "the table 'key' is not",
    ),
    "policy": ("CREATE POLICY spare ON key USING (false)", "the policy 'spare' of 'key'"),
    "view": ("CREATE VIEW spare AS SELECT * FROM key", "the view 'spare'"),
    "column": ("ALTER TABLE key ADD COLUMN spare BIGINT", "the column 'spare' of 'key'"),
    "generated column": (
        "ALTER TABLE key ADD COLUMN spare BIGINT GENERATED ALWAYS AS (revoke_time) STORED",
        "the column 'spare' of 'key'",
    ),
    "default": (
        "ALTER TABLE key ALTER COLUMN revoke_note SET DEFAULT 'x'",
        "the column 'revoke_note' of 'key' is not",
    ),
    "constraint dropped": (
        "ALTER TABLE key DROP CONSTRAINT key_created_revision_key",
        "'key_created_revision_key'",
    ),
    "index dropped": ("DROP INDEX change_by_key", "lacks the index 'change_by_key'"),
    "index": ("CREATE UNIQUE INDEX spare ON key (revoke_time)", "the index 'spare'"),
    "heir": (
        "CREATE SCHEMA theirs; CREATE TABLE theirs.more () INHERITS (key)",
        "inheriting from the other",
    ),
    "not logged": ("ALTER TABLE refused SET UNLOGGED", "the table 'refused' is not"),
    "operator": (
        (
            "CREATE FUNCTION yes(text, text) RETURNS bool LANGUAGE sql AS 'SELECT true';"
            " CREATE OPERATOR === (LEFTARG = text, RIGHTARG = text, FUNCTION = yes)"
        ),
        "function 'yes(text, text)'",
    ),
    "domain": ("CREATE DOMAIN spare AS text", "the type 'spare'"),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A SQLite database with a change in it."""
    path = tmp_path / "keys.db"
    migrate(path)

    async def fill() -> None:
        store = open_store(path, sign)
        await create_project(store)
        await store.close()

    asyncio.run(fill())
    return path


def alter(path: Path, script: str) -> None:
    """Run statements behind the server's back."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(script)


async def differences(store: Store) -> list[str]:
    """Return the findings of `audit verify` on the schema."""
    try:
        return list(await store.schema_differences())
    finally:
        await store.close()


@pytest.mark.parametrize("name", SQLITE)
def test_sqlite_with_altered_schema_is_refused(path: Path, name: str) -> None:
    """Open, migrate, backup, restore and copy refuse it; audit verify reports it."""
    script, told = SQLITE[name]
    alter(path, script)
    spare = path.with_name("spare.db")
    with pytest.raises(StoreUnusable, match="altered") as refused:
        open_store(path, sign)
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)
    for attempt in (
        lambda: migrate(path),
        lambda: check_copy(path),
        lambda: back_up(path, spare),
        lambda: drafted(path, spare).__enter__(),
        lambda: SqliteEndpoint(path, whole=True),
        lambda: SqliteEndpoint(path, whole=False),
    ):
        with pytest.raises(StoreUnusable, match="altered"):
            attempt()
    lines = asyncio.run(differences(open_store(path, sign, checked=False)))
    assert any(told in line for line in lines)


def test_sqlite_counters_with_altered_schema_are_refused(path: Path) -> None:
    """A trigger on the counters could give back units that a limit has spent."""
    open_counters(path)
    alter(
        counters_path(path),
        "CREATE TRIGGER more AFTER UPDATE ON counter BEGIN UPDATE counter SET used = 0; END",
    )
    with pytest.raises(StoreUnusable, match="altered: it has the trigger 'more'"):
        open_counters(path)
    with pytest.raises(StoreUnusable, match="altered"):
        migrate(path)


def test_sqlite_after_analyze_and_vacuum_is_opened(path: Path) -> None:
    """Tables that SQLite itself creates do not count as alterations."""
    alter(path, "ANALYZE; VACUUM; REINDEX")
    assert [] == asyncio.run(differences(open_store(path, sign)))
    migrate(path)


@pytest.fixture
def url(cluster: Cluster) -> Iterator[str]:
    """A PostgreSQL database that no other test uses."""
    made = cluster.create()
    postgres.migrate(made)
    yield made
    cluster.release()


def test_postgres_with_altered_schema_is_refused(url: str) -> None:
    """Open, migrate, the counters and copy refuse it; audit verify reports it."""
    script, told = POSTGRES["trigger"]
    execute(url, script)
    for attempt in (
        lambda: postgres.open_store(url, sign),
        lambda: postgres.migrate(url),
        lambda: postgres.open_counters(url),
        lambda: postgres.open_endpoint(url),
    ):
        with pytest.raises(StoreUnusable, match="altered") as refused:
            attempt()
        assert told in str(refused.value)
    lines = asyncio.run(differences(postgres.open_store(url, sign, checked=False)))
    assert any(told in line for line in lines)


def test_postgres_altered_schema_objects_are_reported(url: str) -> None:
    """Every object that could change the effect of a statement or hide a row is reported."""
    rows = PostgresRows(parameters(url), PATIENCE, lambda _: None)
    rows.ready()
    try:
        assert [] == schema_differences(rows)
        for name, (script, told) in POSTGRES.items():
            rows.begin(f"BEGIN; {script}")
            lines = schema_differences(rows)
            rows.roll_back()
            assert any(told in line for line in lines), (name, lines)
    finally:
        rows.drop()


def test_postgres_with_an_extension_is_opened(url: str) -> None:
    """Tables, views, functions and operators that an extension owns are ignored."""
    names = ("pg_stat_statements", "citext", "pg_trgm", "btree_gin")
    known = "SELECT name FROM pg_available_extensions"
    available = {name for (name,) in execute(url, known)} & set(names)
    for name in sorted(available):
        execute(url, f"CREATE EXTENSION {name} SCHEMA public")
    execute(url, "ANALYZE")
    assert [] == asyncio.run(differences(postgres.open_store(url, sign)))
    postgres.migrate(url)


def test_postgres_role_without_temporary_tables_gets_clear_error(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The schema check needs the TEMPORARY privilege, which PUBLIC has by default."""
    monkeypatch.setattr("keyauthority_server.store.postgres.schema_shape._expected", {})
    database = execute(url, "SELECT current_database()")[0][0]
    for statement in (
        f"REVOKE TEMPORARY ON DATABASE {database} FROM PUBLIC",
        "CREATE ROLE narrow LOGIN",
        "GRANT ALL ON ALL TABLES IN SCHEMA public TO narrow",
    ):
        execute(url, statement)
    with pytest.raises(StoreUnusable, match="TEMPORARY"):
        postgres.open_store(url.replace("postgres@", "narrow@"), sign)
