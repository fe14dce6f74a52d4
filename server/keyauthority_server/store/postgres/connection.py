"""Connections to PostgreSQL: how they are made, how long they are waited for, what errors mean."""

from __future__ import annotations

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

# What the URL does not say. A server that is gone without a word is noticed, and the next of
# several hosts reached, within 5 seconds.
_DEFAULTS: Final[Mapping[str, Any]] = {
    "application_name": "keyauthority",
    "target_session_attrs": "read-write",  # of several hosts the primary; never a standby
    "connect_timeout": 2,  # seconds, for each host: the shortest that there is
    "keepalives": 1,
    "keepalives_idle": 2,  # seconds
    "keepalives_interval": 1,  # seconds
    "keepalives_count": 3,
    "tcp_user_timeout": 3_000,  # ms
}
# Where a session leads, by names that no search_path can redirect. Behind a pooler the process that
# answers is not the one that the connection was told of. Tables are looked for where they are, else
# where they will be made.
_WHERE: Final = (
    "SELECT pg_catalog.pg_backend_pid(), coalesce("
    "(SELECT relnamespace::pg_catalog.regnamespace::pg_catalog.text FROM pg_catalog.pg_class"
    " WHERE oid = pg_catalog.to_regclass('keyauthority_migration')),"
    " pg_catalog.quote_ident(pg_catalog.current_schema())),"
    " pg_catalog.current_setting('session_replication_role')"
)
# All that durability, freshness and the meaning of a statement rest on. The defaults of a role or
# database can be changed at any time, and a pooler may give each transaction another session.
_SETTINGS: Final = sql.SQL(
    "SELECT pg_catalog.set_config(name, value, {local}) FROM (VALUES"
    " ('search_path', {schema}),"
    " ('synchronous_commit', CASE pg_catalog.current_setting('synchronous_commit')"
    " WHEN {kept} THEN {kept} ELSE {commits} END),"
    " ('client_min_messages', 'warning'),"  # a cancelled replication is told by a warning
    " ('row_security', 'off'),"  # an error, instead of rows that are left out in silence
    " ('quote_all_identifiers', 'off'),"  # schemas are compared as text
    " ('statement_timeout', {statement}),"
    " ('lock_timeout', {lock}),"
    " ('idle_in_transaction_session_timeout', {idle}),"
    " ('default_transaction_isolation', 'read committed'),"
    " ('transaction_timeout', '0')"  # PostgreSQL 17 and later
    ") AS wanted (name, value)"
    " WHERE pg_catalog.current_setting(name, true) IS NOT NULL"
)
_REPLICATION_CANCELLED: Final = "SyncRepWaitForLSN"  # the text of its warning is in any language
_WAIT_SECONDS: Final = 0.1  # how often a wait looks at its end

# Classes and codes: https://www.postgresql.org/docs/current/errcodes-appendix.html
_FULL: Final = frozenset({"53100"})
_LOST: Final = re.compile(
    "08...|57P0.|25P0[34]|25006|40003|F....|XX..."  # connection, shutdown, patience, standby, crash
)
_PASSING: Final = re.compile("40...|53...|55P03|57014|58...")  # nothing of the transaction is left


# The library tells no code of a connection that failed. In another language these only wait.
_DENIED: Final = re.compile(
    "password authentication failed|no password supplied|no pg_hba.conf entry|certificate"
    '|(role|database) "[^"]*" does not exist|permission denied for database|no such user'
    "|authentication failed|session is read-only"
)


class ConnectionLost(StoreUnavailable):
    """The connection is of no use any more: what it was told last may have been done."""


class StatementFailed(StoreError):
    """One statement cannot be run, or broke a rule of the schema; it alone was undone."""


class Patience(NamedTuple):
    """How long is waited, in seconds."""

    statement: float
    """By this process, for one statement: after that its connection is dropped."""
    server: float
    """By the server, for one statement; 0 has no end, as a COMMIT must."""
    lock: float
    """By the server, for a lock that somebody else holds."""
    idle: float
    """By the server, for the next statement of a transaction that holds others up."""
    replicated: bool = True
    """False: a commit waits for the disk of the primary, and for no standby."""


class Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection whose every wait has an end."""

    patience = 5.0
    pooled = False
    """True behind a pooler: each transaction may run in another session."""
    settings = ""
    """A statement that each transaction begins with."""
    unreplicated = False
    """True once a commit was answered that somebody cancelled before a standby had it."""

    def notice(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        """Take a word of the server that is no answer."""
        if diagnostic.source_function == _REPLICATION_CANCELLED:
            self.unreplicated = True

    def wait(self, gen: PQGen[R], *_: Any, **__: Any) -> R:
        """Wait for a statement, but not for ever; the connection is of no use after that."""
        return super().wait(_bounded(gen, monotonic() + self.patience), _WAIT_SECONDS)


def _bounded(gen: PQGen[R], end: float) -> PQGen[R]:
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            if not ready and monotonic() > end:
                raise psycopg.OperationalError("the server did not answer in time")
            wanted = gen.send(ready)
    except StopIteration as result:
        return result.value  # type: ignore[no-any-return]  # what a generator of R returns


def parameters(url: str) -> dict[str, Any]:
    """Return how to connect; raises StoreRefused for a URL that PostgreSQL's library refuses."""
    try:
        told = conninfo_to_dict(url)
    except psycopg.Error:
        raise StoreUnusable("the URL of the store is none that PostgreSQL understands") from None
    return {**_DEFAULTS, **told, "client_encoding": "utf8"}


def connect(to: Mapping[str, Any], patience: Patience) -> Connection:
    """Return a connection in autocommit; raises StoreUnavailable."""
    try:
        connection = Connection.connect(**to, autocommit=True, cursor_factory=psycopg.RawCursor)
    except (psycopg.Error, OSError) as error:
        line = _line(error)
        if _DENIED.search(line):
            raise StoreDenied(f"PostgreSQL does not let this server in: {line}") from error
        raise StoreUnavailable(f"PostgreSQL cannot be reached: {line}") from error
    connection.patience = patience.statement
    connection.add_notice_handler(connection.notice)
    connection.adapters.register_dumper(int, Int8Dumper)  # else each size is a statement of its own
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
    """Learn where the connection leads, and settle how its transactions begin."""
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
        connection.prepare_threshold = None  # a prepared statement is of one session
    else:
        connection.execute(settings(local=False))


def _milliseconds(seconds: float) -> str:
    return str(round(seconds * 1000))


def store_error(error: psycopg.Error) -> StoreError:
    """Return what an error of the driver means to whoever wrote or read."""
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


@lru_cache(maxsize=1024)  # more than there are statements
def translated(statement: str) -> str:
    """Return the statement with the parameters that PostgreSQL counts: `$1` for the first `?`."""
    places = count(1)
    return re.sub(r"\?", lambda _: f"${next(places)}", statement)
