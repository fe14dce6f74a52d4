"""The schema in PostgreSQL: ownership and version checks, and migration.

A step inserts its name first: of several starting servers one proceeds and the others wait for its
commit, without an engine-specific lock.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from keyauthority.clock import monotonic
from keyauthority_server.store.interface import StoreError, StoreUnavailable, StoreUnusable
from keyauthority_server.store.migrations import COUNTER_STEPS, STEPS, Dialect
from keyauthority_server.store.postgres.connection import Patience, StatementFailed, parameters
from keyauthority_server.store.postgres.rows import PostgresRows
from keyauthority_server.store.postgres.schema_shape import expected_shape, found_shape
from keyauthority_server.store.sql.schema_shape import Shape, check_shape, differences

ALL_STEPS: Final = STEPS + COUNTER_STEPS

MIGRATE_SECONDS: Final = 60.0  # longer than the migration of another starting server
_PATIENCE: Final = Patience(statement=MIGRATE_SECONDS, server=0, lock=MIGRATE_SECONDS / 2, idle=10)

_TABLE: Final = "keyauthority_migration"  # its presence identifies an authority's database
_TABLES: Final = (
    "SELECT c.relname FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n"
    " ON n.oid = c.relnamespace WHERE n.nspname = pg_catalog.current_schema()"
    " AND c.relkind IN ('r', 'p') AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d"
    " WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid"
    " AND d.deptype = 'e')"  # objects owned by an extension do not count
)
_MAKE: Final = f'CREATE TABLE IF NOT EXISTS {_TABLE} (name TEXT COLLATE "C" NOT NULL PRIMARY KEY)'
_APPLIED: Final = f"SELECT name FROM {_TABLE}"  # noqa: S608 - a text of this module's own
_APPLY: Final = f"INSERT INTO {_TABLE} (name) VALUES (?)"  # noqa: S608 - as above
_ENCODING: Final = "SHOW server_encoding"


def migrate(url: str) -> None:
    """Migrate the database, counters included; create the schema in an empty one.

    All missing steps are applied, or none, and only once by concurrent servers. Raises
    StoreUnusable for a database that must not be touched, StoreError if the system fails.
    """
    rows = PostgresRows(parameters(url), _PATIENCE, _check_encoding)
    end = monotonic() + MIGRATE_SECONDS
    try:
        while True:
            try:
                _check_older(rows)
                _migrate(rows)
            except StoreUnusable:
                raise
            except StoreError as error:
                if not _beaten(rows, error) or monotonic() > end:
                    raise
            else:
                return
    finally:
        rows.drop()


def is_made(url: str) -> bool:
    """True for an authority's database of any version; StoreUnusable for another application's."""
    rows = PostgresRows(parameters(url), _PATIENCE, _check_encoding)
    try:
        with rows.reading():
            return _is_ours(rows)
    finally:
        rows.drop()


def check_schema(rows: PostgresRows, *, altered_allowed: bool = False) -> None:
    """Raise StoreUnusable unless the database is an authority's, current and not altered.

    Call it outside of a transaction.
    """
    with rows.reading():
        if not _is_ours(rows):
            raise StoreUnusable("the database is empty: run migrate")
        applied = _applied(rows)
        _check_steps(applied, missing_allowed=False)
        found = found_shape(rows)
    if not altered_allowed:
        check_shape(found, _expected(rows, applied), "the database")


def schema_differences(rows: PostgresRows) -> list[str]:
    """Return the differences of a current database from the schema of the migrations."""
    names = {step.name for step in ALL_STEPS}
    with rows.reading():
        found = found_shape(rows)
    return differences(found, _expected(rows, names))


def _check_older(rows: PostgresRows) -> None:
    """Raise StoreUnusable if an authority's database, of any version, was altered."""
    try:
        rows.begin(snapshot=True)
        if not _is_ours(rows):
            return
        applied, found = _applied(rows), found_shape(rows)
        _check_steps(applied, missing_allowed=True)
    finally:
        rows.roll_back()
    check_shape(found, _expected(rows, applied), "the database")


def _expected(rows: PostgresRows, applied: set[str]) -> Shape:
    def make(temporary: PostgresRows) -> None:
        temporary.run(_MAKE)
        for step in ALL_STEPS:
            if step.name in applied:
                step.migrate(temporary.run, _TEMPORARY)

    return expected_shape(rows, frozenset(applied), make)


def _migrate(rows: PostgresRows) -> None:
    try:
        rows.begin()
        if not _is_ours(rows):
            rows.run(_MAKE)
        applied = _applied(rows)
        _check_steps(applied, missing_allowed=True)
        for step in ALL_STEPS:
            if step.name not in applied:
                rows.run(_APPLY, (step.name,))
                step.migrate(rows.run, _DIALECT)
        rows.commit()
    finally:
        rows.roll_back()


def _beaten(rows: PostgresRows, error: StoreError) -> bool:
    """True if another starting server has done it, or is doing it: then check again."""
    if isinstance(error, StoreUnavailable):
        return False
    with suppress(StoreError), rows.reading():
        return isinstance(error, StatementFailed) and _is_ours(rows)
    return False


def _check_encoding(rows: PostgresRows) -> None:
    with rows.reading():
        encoding = rows.one(_ENCODING)[0]
    if encoding != "UTF8":
        raise StoreUnusable(f"the database's encoding is {encoding}: create it with UTF8")


def _is_ours(rows: PostgresRows) -> bool:
    """Return False for an empty database; raise StoreUnusable for another application's."""
    tables = {name for (name,) in rows.each(_TABLES)}
    if _TABLE in tables:
        return True
    if tables:
        raise StoreUnusable("the database belongs to another application")
    return False


def _applied(rows: PostgresRows) -> set[str]:
    return {name for (name,) in rows.each(_APPLIED)}


def _check_steps(applied: set[str], *, missing_allowed: bool) -> None:
    known = {step.name for step in ALL_STEPS}
    if applied - known:
        later = ", ".join(sorted(applied - known))
        raise StoreUnusable(f"the database is of a newer version: it has {later}")
    if known - applied and not missing_allowed:
        raise StoreUnusable("the database is of an older version: run migrate")


def _append_only(table: str, schema: str = "") -> tuple[str, ...]:
    refuse = (
        f"CREATE FUNCTION {schema}{table}_is_append_only() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN RAISE EXCEPTION '{table} is append-only'; END $$"
    )
    always = (
        f"CREATE TRIGGER {table}_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}"
        f" FOR EACH STATEMENT EXECUTE FUNCTION {schema}{table}_is_append_only()"
    )
    return refuse, always


def _room_for_updates(table: str) -> tuple[str, ...]:
    # A new version of a row in the same page changes no index.
    return (f"ALTER TABLE {table} SET (fillfactor = 50)",)


_DIALECT: Final = Dialect(
    integer="BIGINT",
    bytes="BYTEA",
    text='TEXT COLLATE "C"',
    serial="BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY",
    table="",
    keyed_table="",
    append_only=_append_only,
    room_for_updates=_room_for_updates,
)
# PostgreSQL never searches the temporary schema for functions, unless it is named.
_TEMPORARY: Final = _DIALECT._replace(append_only=lambda table: _append_only(table, "pg_temp."))
