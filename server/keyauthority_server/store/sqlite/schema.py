"""The schemas of the SQLite files: ownership and version checks, and migration."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Sequence
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from sqlite_utils import Database, Migrations

from keyauthority_server.private_files import explain, open_private, unwritable
from keyauthority_server.store.interface import StoreError, StoreUnavailable, StoreUnusable
from keyauthority_server.store.migrations import COUNTER_STEPS, STEPS, Dialect, Step
from keyauthority_server.store.rows import Row, Rows
from keyauthority_server.store.sql.schema_shape import Shape, check_shape, differences
from keyauthority_server.store.sqlite.connection import (
    WRITE_BUSY_MS,
    StatementFailed,
    connect,
    sqlite3,
    store_error,
)
from keyauthority_server.store.sqlite.file_lock import FairFileLock


class Schema(NamedTuple):
    """The marks that identify a kind of file, and the steps that create its tables."""

    application_id: int
    set_application_id: str
    migration_set: str
    steps: tuple[Step, ...]
    set_page_size: str


def _schema(mark: bytes, migration_set: str, steps: tuple[Step, ...], page_size: int) -> Schema:
    number = int.from_bytes(mark, "big")
    set_application_id = f"PRAGMA application_id = {number}"
    return Schema(
        number, set_application_id, migration_set, steps, f"PRAGMA page_size = {page_size}"
    )


RECORDS: Final = _schema(b"KeyA", "keyauthority", STEPS, 4_096)
# Each spend writes another page to the log: small ones save half of its processor time.
COUNTERS: Final = _schema(b"KeyC", "keyauthority_counters", COUNTER_STEPS, 1_024)


def migrate(path: Path, schema: Schema) -> None:
    """Migrate the file at `path` to the newest schema; create it if missing.

    All missing steps are applied, or none, and only once by concurrent servers. Raises
    StoreUnusable for a file that must not be touched, StoreError if the system fails.
    """
    try:
        lock = FairFileLock(path)
        os.close(open_private(path, os.O_RDWR | os.O_CREAT))  # private before it has content
    except OSError as error:
        raise StoreUnusable(explain(error, f"cannot use {path}")) from error
    try:
        with lock, closing(connect(path, WRITE_BUSY_MS, create=True)) as connection:
            if _is_ours(connection, path, schema):
                check_schema(connection, path, schema, missing_allowed=True)
            _apply(connection, schema)
    except sqlite3.DatabaseError as error:
        raise refused_or_failed(error, path) from error
    finally:
        lock.close()


def check_schema(
    connection: sqlite3.Connection,
    path: Path,
    schema: Schema,
    *,
    missing_allowed: bool = False,
    altered_allowed: bool = False,
) -> bool:
    """Return True if the file is current, False if steps are missing.

    Raises StoreUnusable unless it is an authority's, current and not altered.
    """
    try:
        if not _is_ours(connection, path, schema):
            raise StoreUnusable(f"{path} is empty: run migrate")
        applied = {step.name for step in _migrations(schema).applied(_database(connection))}
    except sqlite3.DatabaseError as error:
        raise refused_or_failed(error, path) from error
    except (LookupError, ValueError) as error:  # raised by sqlite-utils for a malformed schema
        raise _damaged(path) from error
    known = {step.name for step in schema.steps}
    if applied - known:
        raise StoreUnusable(
            f"{path} is of a newer version: it has {', '.join(sorted(applied - known))}"
        )
    if known - applied and not missing_allowed:
        raise StoreUnusable(f"{path} is of an older version: run migrate")
    if not altered_allowed:
        check_shape(_described(connection), _expected(schema, frozenset(applied)), path)
    return applied == known


def schema_differences(rows: Rows, schema: Schema) -> list[str]:
    """Return the differences of a current file from the schema of the migrations."""
    names = frozenset(step.name for step in schema.steps)
    return differences(_shape_of(rows.each(_OBJECTS)), _expected(schema, names))


def _described(connection: sqlite3.Connection) -> Shape:
    return _shape_of(connection.execute(_OBJECTS))


def _shape_of(objects: Iterable[Row]) -> Shape:
    """Return a shape from rows of `_OBJECTS`: SQLite keeps the CREATE text of each object."""
    shape = {f"the {kind} {name!r}": text or "" for kind, name, text in objects}
    if _MIGRATIONS in shape:  # its text varies between versions of sqlite-utils
        shape[_MIGRATIONS] = _SPELLING.sub("", shape[_MIGRATIONS]).lower()
    return shape


@lru_cache(maxsize=64)  # one entry for each version encountered
def _expected(schema: Schema, applied: frozenset[str]) -> Shape:
    """Return the shape that the applied steps create, by running them in memory."""
    steps = tuple(step for step in schema.steps if step.name in applied)
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        _migrations(schema._replace(steps=steps)).apply(_database(connection))
        return _described(connection)


def _is_ours(connection: sqlite3.Connection, path: Path, schema: Schema) -> bool:
    """Return False for an empty database; raise StoreUnusable for another application's."""
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (objects,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if application_id == schema.application_id:
        return True
    if application_id == 0 and objects == 0:
        return False
    raise StoreUnusable(f"{path} belongs to another application")


def _apply(connection: sqlite3.Connection, schema: Schema) -> None:
    connection.execute(schema.set_page_size)  # of a new file: others keep theirs
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute(schema.set_application_id)
        _migrations(schema).apply(_database(connection))
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _database(connection: sqlite3.Connection) -> Database:
    return Database(connection, execute_plugins=False)


def _migrations(schema: Schema) -> Migrations:
    migrations = Migrations(schema.migration_set)
    for step in schema.steps:
        migrations(name=step.name)(_Migration(step))
    return migrations


class _Migration:
    """A step in the form that sqlite-utils requires."""

    def __init__(self, step: Step) -> None:
        self.__name__ = step.name
        self._migrate = step.migrate

    def __call__(self, db: Database, /) -> None:
        def run(statement: str, values: Sequence[Any] = ()) -> None:
            db.conn.execute(statement, values)

        self._migrate(run, _DIALECT)


def _append_only(table: str) -> tuple[str, ...]:
    return tuple(
        f"CREATE TRIGGER {table}_is_not_{done} BEFORE {what} ON {table}"
        f" BEGIN SELECT raise(ABORT, '{table} is append-only'); END"
        for what, done in (("UPDATE", "updated"), ("DELETE", "deleted"))
    )


_DIALECT: Final = Dialect(
    integer="INTEGER",
    bytes="BLOB",
    text="TEXT",
    serial="INTEGER PRIMARY KEY",
    table="STRICT",
    keyed_table="STRICT, WITHOUT ROWID",
    append_only=_append_only,
    room_for_updates=lambda table: (),
)

# Without the objects that SQLite creates itself: indexes of constraints, which follow from the text
# of a table, and the statistics of ANALYZE.
_OBJECTS: Final = (
    "SELECT type, name, sql FROM sqlite_schema"
    " WHERE NOT (type = 'index' AND name LIKE 'sqlite\\_autoindex\\_%' ESCAPE '\\' AND sql IS NULL)"
    " AND NOT (type = 'table' AND name IN ('sqlite_stat1', 'sqlite_stat4', 'sqlite_sequence'))"
)
_MIGRATIONS: Final = "the table '_sqlite_migrations'"
_SPELLING: Final = re.compile(r'[\s"`\[\]]+')

_NOT_WRITABLE: Final = frozenset({8, 14})  # READONLY, and CANTOPEN of a file beside it
_NEEDS: Final = "its file system must have POSIX locks and shared memory maps, as a local disk"
_REMEDIES: Final = {
    5: f"; another program has locked it, or {_NEEDS}",  # BUSY
    10: f"; its device failed, or {_NEEDS}",  # IOERR
    14: f"; {_NEEDS}",  # CANTOPEN, of the shared memory too
    15: f"; {_NEEDS}",  # PROTOCOL
}
_NOT_A_DATABASE: Final = frozenset({11, 26})  # SQLITE_CORRUPT, SQLITE_NOTADB


def refused_or_failed(error: sqlite3.DatabaseError, path: Path) -> StoreError:
    """Translate an error of the driver while opening or checking a file."""
    code, failed = getattr(error, "sqlite_errorcode", None), store_error(error)
    not_a_database = code is not None and code & 0xFF in _NOT_A_DATABASE
    if not_a_database or isinstance(failed, StatementFailed):  # its content is unreadable
        return _damaged(path)
    if code is not None and code & 0xFF in _NOT_WRITABLE:
        for place in (path, path.with_name(f"{path.name}-wal"), path.parent):
            if place.exists() and (reason := unwritable(place)):
                return StoreUnusable(reason)
    if cause := _out_of_descriptors():  # SQLite reports it as a file that cannot be opened
        return StoreUnavailable(f"{path} cannot be opened: {cause}")
    remedy = _REMEDIES.get(0 if code is None else code & 0xFF, "")
    return type(failed)(f"{path} cannot be used: {error}{remedy}")


def _out_of_descriptors() -> str:
    """Return cause and remedy if this process cannot open a further file now."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        remedy = "; raise the limit (ulimit -n)" if error.errno == errno.EMFILE else ""
        return f"{error.strerror}{remedy}"
    return ""


def _damaged(path: Path) -> StoreUnusable:
    return StoreUnusable(f"{path} is damaged, or not a SQLite database")
