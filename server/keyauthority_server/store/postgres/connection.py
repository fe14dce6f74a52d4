"""Connections to PostgreSQL: settings, timeouts and the translation of errors."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from functools import lru_cache
from itertools import count
from typing import Any, Final, NamedTuple, TypeVar

import psycopg
from psycopg import sql
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict
from psycopg.types.numeric import Int8Dumper

from keyauthority.clock import monotonic
from keyauthority_server.store.interface import (
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
    StoreUnusable,
)

R = TypeVar("R")

logging.getLogger("psycopg").setLevel(logging.ERROR)  # it warns of errors that are raised too

# Defaults for parameters that the URL leaves out. They detect a silently dead server, and reach the
# next of several hosts, within 5 seconds.
_DEFAULTS: Final[Mapping[str, Any]] = {
    "application_name": "keyauthority",
    "target_session_attrs": "read-write",  # the primary of several hosts; never a standby
    "connect_timeout": 2,  # seconds, for each host: the shortest that libpq allows
    "keepalives": 1,
    "keepalives_idle": 2,  # seconds
    "keepalives_interval": 1,  # seconds
    "keepalives_count": 3,
    "tcp_user_timeout": 3_000,  # ms
}
# The backend and schema of a session, by names that no search_path can redirect. With a connection
# pooler the answering process is not the one announced at connect. The schema is the one that holds
# the tables, else the one where they will be created.
_WHERE: Final = (
    "SELECT pg_catalog.pg_backend_pid(), coalesce("
    "(SELECT relnamespace::pg_catalog.regnamespace::pg_catalog.text FROM pg_catalog.pg_class"
    " WHERE oid = pg_catalog.to_regclass('keyauthority_migration')),"
    " pg_catalog.quote_ident(pg_catalog.current_schema())),"
    " pg_catalog.current_setting('session_replication_role')"
)
# All settings that durability, freshness and the meaning of statements depend on. The defaults of a
# role or database can change at any time, and a pooler may give each transaction another session.
_SETTINGS: Final = sql.SQL(
    "SELECT pg_catalog.set_config(name, value, {local}) FROM (VALUES"
    " ('search_path', {schema}),"
    " ('synchronous_commit', CASE pg_catalog.current_setting('synchronous_commit')"
    " WHEN {kept} THEN {kept} ELSE {commits} END),"
    " ('client_min_messages', 'warning'),"  # a warning reports a cancelled replication
    " ('row_security', 'off'),"  # an error instead of silently omitted rows
    " ('quote_all_identifiers', 'off'),"  # schemas are compared as text
    " ('statement_timeout', {statement}),"
    " ('lock_timeout', {lock}),"
    " ('idle_in_transaction_session_timeout', {idle}),"
    " ('default_transaction_isolation', 'read committed'),"
    " ('transaction_timeout', '0')"  # PostgreSQL 17 and later
    ") AS wanted (name, value)"
    " WHERE pg_catalog.current_setting(name, true) IS NOT NULL"
)
_REPLICATION_CANCELLED: Final = "SyncRepWaitForLSN"  # source function: the text is localised
_WAIT_SECONDS: Final = 0.1  # interval at which a wait checks its deadline

# Classes and codes: https://www.postgresql.org/docs/current/errcodes-appendix.html
_FULL: Final = frozenset({"53100"})
_LOST: Final = re.compile(
    "08...|57P0.|25P0[34]|25006|40003|F....|XX..."  # connection, shutdown, patience, standby, crash
)
_PASSING: Final = re.compile("40...|53...|55P03|57014|58...")  # the transaction was rolled back


# libpq reports no code for a failed connection. Localised messages do not match and are retried.
_DENIED: Final = re.compile(
    "password authentication failed|no password supplied|no pg_hba.conf entry|certificate"
    '|(role|database) "[^"]*" does not exist|permission denied for database|no such user'
    "|authentication failed|session is read-only"
)


class ConnectionLost(StoreUnavailable):
    """The connection is unusable; the outcome of its last statement is unknown."""


class StatementFailed(StoreError):
    """One statement failed or violated a constraint; only that statement was undone."""


class Patience(NamedTuple):
    """Timeouts, in seconds."""

    statement: float
    """Of this process, for one statement: after that its connection is dropped."""
    server: float
    """Of the server, for one statement; 0 is unlimited, as a COMMIT requires."""
    lock: float
    """Of the server, for a lock held by another session."""
    idle: float
    """Of the server, for the next statement of an open transaction, which blocks others."""
    replicated: bool = True
    """False: a commit waits only for the disk of the primary, not for a standby."""


class Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection whose every wait is bounded."""

    patience = 5.0
    pooled = False
    """True with a connection pooler: each transaction may run in another session."""
    settings = ""
    """The first statement of each transaction."""
    unreplicated = False
    """True once a commit was cancelled before a standby had it, although it was answered."""

    def notice(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        """Handle a notice of the server."""
        if diagnostic.source_function == _REPLICATION_CANCELLED:
            self.unreplicated = True

    def wait(self, gen: PQGen[R], *_: Any, **__: Any) -> R:
        """Wait for a statement until its timeout, which leaves the connection unusable."""
        return super().wait(_bounded(gen, monotonic() + self.patience), _WAIT_SECONDS)


def _bounded(gen: PQGen[R], end: float) -> PQGen[R]:
    try:
        events = next(gen)
        while True:
            ready = yield events
            if not ready and monotonic() > end:
                raise psycopg.OperationalError("the server did not answer in time")
            events = gen.send(ready)
    except StopIteration as result:
        return result.value  # type: ignore[no-any-return]  # the return value of a PQGen[R]


def parameters(url: str) -> dict[str, Any]:
    """Return the connection parameters; raises StoreUnusable for a URL that libpq rejects."""
    try:
        explicit = conninfo_to_dict(url)
    except psycopg.Error:
        raise StoreUnusable("malformed PostgreSQL URL of the store") from None
    return {**_DEFAULTS, **explicit, "client_encoding": "utf8"}


def connect(to: Mapping[str, Any], patience: Patience) -> Connection:
    """Return a connection in autocommit; raises StoreUnavailable."""
    try:
        connection = Connection.connect(**to, autocommit=True, cursor_factory=psycopg.RawCursor)
    except (psycopg.Error, OSError) as error:
        line = _line(error)
        if _DENIED.search(line):
            raise StoreDenied(f"PostgreSQL rejected the login: {line}") from error
        raise StoreUnavailable(f"PostgreSQL cannot be reached: {line}") from error
    connection.patience = patience.statement
    connection.add_notice_handler(connection.notice)
    connection.adapters.register_dumper(int, Int8Dumper)  # else each int size prepares a statement
    try:
        _settle(connection, patience)
    except psycopg.Error as error:
        connection.close()
        raise store_error(error) from error
    except StoreError:
        connection.close()
        raise
    return connection


def _settle(connection: Connection, patience: Patience) -> None:
    """Detect the schema and a pooler, and build the settings of each transaction."""
    found = connection.execute(_WHERE).fetchone()
    if found is None or found[1] is None:
        raise StoreUnusable("the search_path of the role names no schema that exists")
    process, schema, triggers = found
    if triggers != "origin":
        raise StoreUnusable(
            f"session_replication_role is {triggers}: the triggers that guard the log are off; "
            f"ALTER ROLE ... RESET session_replication_role"
        )
    words = {
        "schema": f"{schema}, pg_temp",
        "kept": "remote_apply" if patience.replicated else "local",
        "commits": "on" if patience.replicated else "local",
        "statement": _milliseconds(patience.server),
        "lock": _milliseconds(patience.lock),
        "idle": _milliseconds(patience.idle),
    }

    def settings(*, local: bool) -> str:
        literals = {name: sql.Literal(word) for name, word in (words | {"local": local}).items()}
        return _SETTINGS.format(**literals).as_string(connection)

    connection.settings = settings(local=True)
    connection.pooled = process != connection.info.backend_pid
    if connection.pooled:
        connection.prepare_threshold = None  # a prepared statement belongs to one session
    else:
        connection.execute(settings(local=False))


def _milliseconds(seconds: float) -> str:
    return str(round(seconds * 1000))


def store_error(error: psycopg.Error) -> StoreError:
    """Translate an error of the driver."""
    state, text = error.sqlstate, f"{type(error).__name__}: {_line(error)}"
    if state is None:
        lost = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
        return ConnectionLost(text) if lost else StatementFailed(text)
    if state in _FULL:
        return StoreFull(text)
    if _LOST.fullmatch(state):
        return ConnectionLost(text)
    return StoreUnavailable(text) if _PASSING.fullmatch(state) else StatementFailed(text)


def _line(error: Exception) -> str:
    """Return the message without its detail, which may name values."""
    diag = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    return " ".join((diag or str(error)).split())


@lru_cache(maxsize=1024)  # more than the number of statements
def translated(statement: str) -> str:
    """Return the statement with numbered parameters: `$1` for the first `?`."""
    places = count(1)
    return re.sub(r"\?", lambda _: f"${next(places)}", statement)
