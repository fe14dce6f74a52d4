"""Restores a SQLite database: a draft next to the present one, until it replaces it.

The caller carries final changes of the present database (revocations, rotations) over into the
draft. If a restore is killed, one of the two databases is in place, complete.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Concatenate, Final, NamedTuple, ParamSpec, TypeVar
from uuid import uuid4

from keyauthority.model import LogId
from keyauthority_server.store.interface import StoreError, StoreReadOnly, StoreUnusable
from keyauthority_server.store.rows import Rows
from keyauthority_server.store.sql.integrity import compared_key
from keyauthority_server.store.sql.log_head import read_head
from keyauthority_server.store.sql.queries import digests
from keyauthority_server.store.sql.statements import KEY_CHECKS, KEY_ROW
from keyauthority_server.store.sql.transaction import SqlTransaction
from keyauthority_server.store.sqlite.backup import Content, check_copy, copy, sync, unfinished
from keyauthority_server.store.sqlite.connection import WRITE_BUSY_MS, SqliteRows, connect, sqlite3
from keyauthority_server.store.sqlite.rollback_guard import (
    check_head,
    head_path,
    read_saved_head,
    save_head,
)
from keyauthority_server.store.sqlite.schema import (
    RECORDS,
    check_schema,
    migrate,
    refused_or_failed,
)
from keyauthority_server.store.types import EntrySigner, LogHead, StoredKey, VersionsInUse

T = TypeVar("T")
P = ParamSpec("P")


class Undone(NamedTuple):
    """Restrictions that the restore reverts to the backup's state: access keys, ids."""

    disabled_keys: Sequence[str] = ()
    shortened_keys: Sequence[str] = ()
    """Keys that would have expired earlier."""
    narrowed_keys: Sequence[str] = ()
    """Keys whose permissions, restrictions or limits differed, narrower or wider."""
    suspended_projects: Sequence[str] = ()
    lost_projects: Sequence[str] = ()


class Present(NamedTuple):
    """The changes of the present database that the backup lacks."""

    continues: bool
    """True if its log continues the backup's: then it has every later revocation."""
    keys: Sequence[StoredKey]
    """In order of creation: keys that are missing in the backup, or were revoked or rotated after
    it."""
    undone: Undone
    key_checks: Mapping[str, bytes]


@contextmanager
def checked_present(database: Path) -> Iterator[Path]:
    """Yield the present database, checkpointed; a migrated copy if it is of an older version.

    Raises StoreUnusable, without touching it, if it is damaged or lacks acknowledged changes;
    StoreReadOnly if it is the source of a copy, and StoreError.
    """
    saved = read_saved_head(database)
    check_copy(database)
    try:
        with closing(connect(database, WRITE_BUSY_MS)) as connection:
            check_head(connection, database, saved)
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            if _is_closed(connection):
                raise StoreReadOnly(f"{database} was closed when it was copied to another store")
            is_current = check_schema(connection, database, RECORDS, missing_allowed=True)
    except sqlite3.DatabaseError as error:
        raise refused_or_failed(error, database) from error
    if is_current:
        yield database
        return
    with unfinished(database) as path:
        copy(database, path)
        migrate(path, RECORDS)
        yield path


@contextmanager
def drafted(file: Path, database: Path) -> Iterator[Draft]:
    """Yield a draft of a file's content next to the database: checked and migrated.

    Raises StoreUnusable for a file that fails the checks, and StoreError.
    """
    if not file.is_file():
        raise StoreUnusable(f"there is no file {file}")
    if database.exists() and file.samefile(database):
        raise StoreUnusable(f"{file} is the present database")
    with unfinished(database) as path:
        copy(file, path, private=False)
        content = check_copy(path)
        migrate(path, RECORDS)
        try:
            with closing(connect(path, WRITE_BUSY_MS)) as connection:
                if _is_closed(connection):
                    raise StoreReadOnly(f"{file} was closed when it was copied to another store")
                yield Draft(path, connection, content)
        except sqlite3.DatabaseError as error:
            raise refused_or_failed(error, path) from error


class FileLog:
    """The log and the records of a file that no server has open, to be verified."""

    def __init__(self, rows: SqliteRows) -> None:
        self._rows = rows

    async def query(
        self, read: Callable[Concatenate[Rows, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `read` directly: the file does not change."""
        return read(self._rows, *args, **kwargs)

    async def schema_differences(self) -> Sequence[str]:
        """Return nothing: a file with an altered schema is rejected earlier."""
        return ()


@contextmanager
def present_log(database: Path) -> Iterator[FileLog]:
    """Yield the log of a database from `checked_present`."""
    with closing(connect(database, WRITE_BUSY_MS)) as connection:
        yield FileLog(SqliteRows(connection))


class Draft:
    """The future database. Create it with `drafted`."""

    def __init__(self, path: Path, connection: sqlite3.Connection, content: Content) -> None:
        self._path = path
        self._connection = connection
        self._rows = SqliteRows(connection)
        self.content = content
        """The content of the source file."""

    @property
    def log(self) -> FileLog:
        """Return its log and records, for verification."""
        return FileLog(self._rows)

    def key_checks(self) -> Mapping[str, bytes]:
        """Return the check values that identify key files, by name."""
        return dict(self._connection.execute(KEY_CHECKS).fetchall())

    def versions_in_use(self, now: datetime) -> VersionsInUse:
        """Return the key versions that it depends on; see `Store`."""
        return digests.versions_in_use(self._rows, now)

    def compare(self, database: Path) -> Present:
        """Return the changes that the draft lacks of a database from `checked_present`."""
        run = self._connection.execute
        run("ATTACH DATABASE ? AS present", (f"{database.absolute().as_uri()}?mode=rw",))
        try:
            (continues,) = run(_CONTINUES).fetchone()
            return Present(
                continues=bool(continues),
                keys=[compared_key(row) for row in run(_PRESENT_KEYS)],
                undone=Undone(*([name for (name,) in run(statement)] for statement in _UNDONE)),
                key_checks=dict(run(_PRESENT_KEY_CHECKS).fetchall()),
            )
        finally:
            run("DETACH DATABASE present")

    def change(self, sign: EntrySigner, work: Callable[[SqlTransaction], None]) -> LogId:
        """Run `work` in a transaction that also gives the log a new id; return the id."""
        log_id = LogId(str(uuid4()))
        self._rows.run("BEGIN IMMEDIATE")
        transaction = SqlTransaction(self._rows, sign)
        work(transaction)
        transaction.finish()
        self._rows.run(_SET_LOG_ID, (log_id,))
        self._rows.run(_SET_DATABASE_ID, (str(uuid4()),))
        self._rows.run("COMMIT")
        return log_id

    def install(self, database: Path, aside: Path) -> Content:
        """Replace the database with the draft, keeping it as `aside`; return the new content.

        No process may have either open.
        """
        try:
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._connection.close()  # also removes its write-ahead log
            content = check_copy(self._path)
            sync(self._path)
            _keep_aside(database, aside)
            head_path(database).unlink(missing_ok=True)  # it names the replaced log
            self._path.replace(database)
        except OSError as error:
            raise StoreError(f"cannot put {database} in place: {error.strerror}") from error
        sync(database.parent)
        save_head(head_path(database), LogHead(content.log_id, content.revision))
        return content


def _is_closed(connection: sqlite3.Connection) -> bool:
    return read_head(SqliteRows(connection)).closed


def _keep_aside(database: Path, aside: Path) -> None:
    """Link the database to a second name, and rename a remaining write-ahead log.

    Only an unreadable database leaves one.
    """
    with suppress(FileNotFoundError):
        os.link(database, aside)
    for ending in ("-wal", "-shm"):
        with suppress(FileNotFoundError):
            database.with_name(database.name + ending).rename(aside.with_name(aside.name + ending))
    sync(database.parent)


_SET_LOG_ID: Final = "UPDATE log SET log_id = ? WHERE id = 1"
_SET_DATABASE_ID: Final = "UPDATE handover SET database_id = ? WHERE id = 1"
_CONTINUES: Final = (  # the hash of an entry covers all earlier entries
    "SELECT log.revision = 0 OR EXISTS (SELECT 1 FROM present.change AS theirs"
    " WHERE theirs.revision = log.revision AND theirs.hash = log.hash)"
    " FROM main.log AS log WHERE id = 1"
)
_PRESENT_KEY_CHECKS: Final = "SELECT name, check_value FROM present.key_check"
_PRESENT_KEYS: Final = (
    "SELECT "  # noqa: S608 - of constant column names
    + ", ".join("newer." + column for column in KEY_ROW)
    + " FROM present.key AS newer LEFT JOIN main.key AS older USING (access_key)"
    " WHERE older.access_key IS NULL"
    " OR (newer.revoke_time IS NOT NULL AND older.revoke_time IS NULL)"
    " OR (newer.successor_access_key IS NOT NULL AND older.successor_access_key IS NULL)"
    " ORDER BY newer.created_revision"
)
_UNDONE_KEYS: Final = (
    "SELECT newer.access_key FROM present.key AS newer JOIN main.key AS older USING (access_key)"
    " WHERE newer.revoke_time IS NULL AND "
)
_NARROWED: Final = " OR ".join(
    f"newer.{column} IS NOT older.{column}"
    for column in (
        *("permissions", "restrictions", "rate_limit_limit", "rate_limit_period"),
        *("quota_limit", "quota_period"),
    )
)
_BY_CREATION: Final = " ORDER BY newer.created_revision"
_SUSPENDED: Final = (
    "SELECT newer.project_id FROM present.project AS newer JOIN main.project AS older"
    " USING (project_id) WHERE newer.suspended > older.suspended ORDER BY newer.project_id"
)
_LOST_PROJECTS: Final = (
    "SELECT project_id FROM present.project WHERE project_id NOT IN"
    " (SELECT project_id FROM main.project) ORDER BY project_id"
)
_UNDONE: Final = (  # in the order of the fields of Undone
    _UNDONE_KEYS + "newer.disabled > older.disabled" + _BY_CREATION,
    _UNDONE_KEYS
    + "newer.expire_time < coalesce(older.expire_time, 9223372036854775807)"
    + _BY_CREATION,
    f"{_UNDONE_KEYS}({_NARROWED}){_BY_CREATION}",
    _SUSPENDED,
    _LOST_PROJECTS,
)
