"""SQLite files: which are opened, which are refused, and how migrations apply the schema."""

from __future__ import annotations

import os
import stat
from contextlib import closing
from functools import partial
from pathlib import Path
from uuid import UUID

import pytest

from keyauthority.model import ChangeType
from keyauthority_server.store.interface import StoreUnusable, Transaction
from keyauthority_server.store.migrations import Dialect, Run, Step
from keyauthority_server.store.sql import statements
from keyauthority_server.store.sql.queries.digests import versions_in_use
from keyauthority_server.store.sqlite import store
from keyauthority_server.store.sqlite.connection import SqliteRows, connect, sqlite3
from keyauthority_server.store.sqlite.counters import counters_path
from keyauthority_server.store.sqlite.schema import RECORDS
from keyauthority_server.store.sqlite.store import affected_library, migrate, open_store
from tests.store.engines import Sqlite, digests
from tests.store.factories import NOON, applying, create_project, mutation, project, sign

SQLITE = Sqlite()


def refusal(path: Path) -> str:
    """Return the one line with which both migrate and open refuse a file, and leave it alone."""
    before = path.read_bytes()
    with pytest.raises(StoreUnusable) as refused:
        open_store(path, sign)
    with pytest.raises(StoreUnusable):
        migrate(path)
    assert before == path.read_bytes()
    assert 1 == len(str(refused.value).splitlines())
    return str(refused.value)


def test_database_of_another_application_is_refused(tmp_path: Path) -> None:
    """A foreign application_id, or tables without one, is refused and left untouched."""
    for number, statement in enumerate(("PRAGMA application_id = 7", "CREATE TABLE theirs (a)")):
        path = tmp_path / f"{number}.db"
        SQLITE.rows(str(path), statement)
        path.chmod(0o600)
        assert "another application" in refusal(path)


def test_file_that_is_not_a_database_is_refused(tmp_path: Path) -> None:
    """A text file is not opened as a database."""
    path = tmp_path / "keys.db"
    path.touch(mode=0o600)
    path.write_text("not a database\n" * 1000)
    assert "not a SQLite database" in refusal(path)


async def test_truncated_database_is_refused(tmp_path: Path) -> None:
    """A database that lost its end is refused at open instead of read as empty."""
    path = Path(SQLITE.make(tmp_path))
    store = open_store(path, sign)
    await create_project(store)
    await store.close()
    os.truncate(path, 2 * 4096)
    assert "is damaged" in refusal(path)


@pytest.mark.case(25)
def test_newer_schema_is_refused(tmp_path: Path) -> None:
    """A database migrated by a newer version is neither opened nor migrated."""
    path = Path(SQLITE.make(tmp_path))
    SQLITE.rows(
        str(path),
        "INSERT INTO _sqlite_migrations (migration_set, name, applied_at)"
        " VALUES ('keyauthority', '9999_later', '')",
    )
    assert "9999_later" in refusal(path)


def test_open_creates_no_database(tmp_path: Path) -> None:
    """Opening a missing or empty file fails; only migrate creates a database."""
    for path in (tmp_path / "none.db", tmp_path / "none" / "none.db", tmp_path):
        with pytest.raises(StoreUnusable):
            open_store(path, sign)
    assert [] == list(tmp_path.iterdir())
    (tmp_path / "empty.db").touch(mode=0o600)
    with pytest.raises(StoreUnusable, match="run migrate"):
        open_store(tmp_path / "empty.db", sign)
    with pytest.raises(StoreUnusable):
        migrate(tmp_path / "none" / "none.db")


async def test_migrate_twice_changes_nothing(tmp_path: Path) -> None:
    """Migrate may run at every start."""
    place = SQLITE.make(tmp_path)
    store = open_store(Path(place), sign)
    await create_project(store)
    before = digests(SQLITE, place)
    migrate(Path(place))
    await store.close()
    assert before == digests(SQLITE, place)


def test_failed_migration_rolls_back_and_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If one step fails none is applied; the next start applies them all."""
    path = Path(SQLITE.make(tmp_path))
    failing = [True]

    def second(run: Run, dialect: Dialect) -> None:
        run("CREATE TABLE second (a)")
        if failing:
            raise OSError("killed")

    steps = (*RECORDS.steps, Step("9999_second", second))
    monkeypatch.setattr(store, "RECORDS", RECORDS._replace(steps=steps))
    with pytest.raises(OSError, match="killed"):
        migrate(path)
    assert [] == SQLITE.rows(str(path), "SELECT 1 FROM sqlite_schema WHERE name = 'second'")
    with pytest.raises(StoreUnusable, match="older"):
        open_store(path, sign)
    failing.clear()
    migrate(path)
    assert [(1,)] == SQLITE.rows(str(path), "SELECT 1 FROM sqlite_schema WHERE name = 'second'")


def test_new_database_is_private_and_has_a_log_id(tmp_path: Path) -> None:
    """It has our application_id, owner-only permissions and a log_id of its own."""
    place = SQLITE.make(tmp_path)
    for file, mark in ((Path(place), b"KeyA"), (counters_path(Path(place)), b"KeyC")):
        asked = SQLITE.rows(str(file), "PRAGMA application_id")
        assert [(int.from_bytes(mark, "big"),)] == asked
        assert 0o600 == stat.S_IMODE(file.stat().st_mode)
    ((log_id, revision),) = SQLITE.rows(place, "SELECT log_id, revision FROM log")
    assert (4, 0) == (UUID(log_id).version, revision)


def test_connection_is_durable_and_checked(tmp_path: Path) -> None:
    """Every connection has the settings that the architecture requires."""
    connection = connect(Path(SQLITE.make(tmp_path)), 50)
    wanted = {
        "PRAGMA journal_mode": "wal",
        "PRAGMA synchronous": 2,
        "PRAGMA foreign_keys": 1,
        "PRAGMA mmap_size": 0,
        "PRAGMA trusted_schema": 0,
        "PRAGMA wal_autocheckpoint": 0,
        "PRAGMA busy_timeout": 50,
    }
    assert wanted == {pragma: connection.execute(pragma).fetchone()[0] for pragma in wanted}
    connection.close()


@pytest.mark.parametrize(("version", "affected"), [((3, 51, 2), True), ((3, 51, 3), False)])
def test_sqlite_with_the_corruption_bug_is_detected(
    monkeypatch: pytest.MonkeyPatch, version: tuple[int, int, int], affected: bool
) -> None:
    """Every SQLite before 3.51.3 is recognized as unsafe for several writing processes."""
    monkeypatch.setattr(sqlite3, "sqlite_version_info", version)
    assert affected is affected_library()


def test_reads_and_pages_use_indexes(tmp_path: Path) -> None:
    """No read scans a table, and no page of keys sorts or scans a project's table."""
    place = SQLITE.make(tmp_path)
    page = statements.keys_page(statements.Source.PROJECT, ()).replace("?", "1")
    for statement in (statements.READ_SNAPSHOT.replace("?", "'a'"), page):
        plan = " ".join(row[3] for row in SQLITE.rows(place, "EXPLAIN QUERY PLAN " + statement))
        assert "SCAN" not in plan
        assert "TEMP B-TREE" not in plan


def create_projects(number: int, transaction: Transaction) -> None:
    """Make so many changes at once."""
    for _ in range(number):
        applying(mutation(ChangeType.PROJECT_CREATED, project()))(transaction)


async def test_versions_in_use_are_found_without_a_scan(tmp_path: Path) -> None:
    """A start reads them: its steps grow with the logarithm of the log, not with its length."""
    place, steps = Path(SQLITE.make(tmp_path)), []
    opened = open_store(place, sign)
    for changes in (20, 1_000):
        await opened.write(partial(create_projects, changes))
        with closing(connect(place, 50)) as connection:
            taken: list[None] = []
            connection.set_progress_handler(partial(taken.append, None), 1)
            versions_in_use(SqliteRows(connection), NOON)
            steps.append(len(taken))
    await opened.close()
    assert steps[1] < 2 * steps[0]
