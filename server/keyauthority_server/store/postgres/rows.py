"""`store.rows.Rows` over a connection that opens on demand and reopens after a loss."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from itertools import count
from typing import Any, Final

import psycopg
from psycopg.pq import TransactionStatus

from keyauthority.clock import monotonic
from keyauthority_server.store.interface import StoreError
from keyauthority_server.store.postgres.connection import (
    Connection,
    ConnectionLost,
    Patience,
    StatementFailed,
    connect,
    store_error,
    translated,
)
from keyauthority_server.store.rows import SetStatement, ValuesTable

REQUESTED: Final = (
    "WITH requested (number, value) AS"
    " (SELECT number, value FROM unnest(?::text[]) WITH ORDINALITY AS given (value, number)) "
)
COMMIT: Final = "COMMIT"
_LOCAL: Final = ("/", "127.", "::1")  # a socket's folder, or an address
_ALL_OF: Final = "SELECT * FROM "
_VALUES: Final = re.compile(r"VALUES \([?, ]+\)")
# Of a page, per fetch: a key may weigh 750 KiB with its evidence.
FETCHED_ROWS: Final = 64
FETCHED_FIRST: Final = 8
FETCHED_CHARACTERS: Final = 4 * 1024 * 1024  # by the heaviest row so far

Admit = Callable[["PostgresRows"], None]
"""Checks a new connection; raises StoreError if it must not be used."""


class PostgresRows:
    """Runs statements on one connection. Several threads may use it, one after the other."""

    def __init__(self, to: Mapping[str, Any], patience: Patience, admit: Admit) -> None:
        self._to = to
        self._patience = patience
        self._admit = admit
        self._connection: Connection | None = None
        self.waiting_since: float | None = None
        """See `database_turns.WaitingRows`."""
        self.is_local = False
        """True if the last connection was to a database on this machine."""
        self.failure: StoreError | None = None
        """The last error that lost the whole transaction."""

    def one(self, statement: str, values: Sequence[Any] = ()) -> Any:
        """Return the first row, or None."""
        try:
            return self._run(statement, values).fetchone()
        except (psycopg.Error, UnicodeError) as error:
            raise self._noted(error) from error

    def each(self, statement: str, values: Sequence[Any] = ()) -> Iterable[Any]:
        """Return the rows, fully fetched."""
        try:
            return self._run(statement, values).fetchall()
        except (psycopg.Error, UnicodeError) as error:
            raise self._noted(error) from error

    def run(self, statement: str, values: Sequence[Any] = ()) -> None:
        """Run a statement that returns no rows."""
        try:
            self._run(statement, values)
        except (psycopg.Error, UnicodeError) as error:
            raise self._noted(error) from error

    def run_many(self, statement: str, values: Iterable[Sequence[Any]]) -> None:
        """Run a statement that returns no rows, once for each sequence of values."""
        try:
            self._live().cursor().executemany(translated(statement), values)
        except (psycopg.Error, UnicodeError) as error:
            raise self._noted(error) from error

    def run_set(self, statement: SetStatement, values: Sequence[Sequence[Any]]) -> None:
        """Run a statement for a set of rows of values, in one round trip."""
        if values:
            self.run(_joined(statement), [list(column) for column in zip(*values, strict=True)])

    def values_table(self, values: Iterable[str]) -> ValuesTable:
        """Return values as a table for a statement."""
        return ValuesTable(REQUESTED, list(values))

    def begin(self, then: str = "", *, snapshot: bool = False) -> Any:
        """Begin a transaction, with the settings that correctness needs; connect if necessary.

        A `snapshot` shows one state, and is read only. `then` holds further statements, sent with
        BEGIN; the first row of the last one is returned.
        """
        self.failure = None
        self.ready()
        return self._begin(then, snapshot=snapshot)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Read all statements inside from one database; connect if necessary.

        A connection pooler may route each transaction to another database, so there the statements
        share a transaction. Must not be nested.
        """
        self.ready()
        if not self._live().pooled:
            yield
            return
        try:
            self._begin("", snapshot=False)
            yield
            self.commit()
        finally:
            self.roll_back()

    def commit(self) -> None:
        """Commit. After ConnectionLost the outcome is unknown; after another error, rolled back."""
        try:
            status = self._run(COMMIT, ()).statusmessage
        except (psycopg.Error, UnicodeError) as error:
            raise self._noted(error) from error
        if status != COMMIT:  # PostgreSQL rolls back a failed transaction at COMMIT
            raise StatementFailed(f"COMMIT was answered with {status}")

    def roll_back(self) -> None:
        """Roll back; close the connection if that fails."""
        connection = self._connection
        if connection is None:
            return
        status = connection.info.transaction_status
        if status in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
            try:
                connection.execute("ROLLBACK")
            except psycopg.Error:
                self.drop()
        elif status is not TransactionStatus.IDLE:
            self.drop()

    @property
    def process(self) -> int | None:
        """The process of PostgreSQL that serves the connection, if there is one."""
        connection = self._connection
        return None if connection is None else connection.info.backend_pid

    @property
    def server_version(self) -> int:
        """The server's version as a number."""
        return self._live().info.server_version

    def ready(self) -> None:
        """Connect if necessary; raises StoreError, usually StoreUnavailable."""
        if self._connection is not None:
            return
        self._connection = connect(self._to, self._patience)
        info = self._connection.info
        self.is_local = (info.hostaddr or info.host).startswith(_LOCAL)
        try:
            self._admit(self)
        except BaseException:
            self.drop()
            raise

    def drop(self) -> None:
        """Close the connection, even while it is in use; the next use opens a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _begin(self, then: str, *, snapshot: bool) -> Any:
        mode = "REPEATABLE READ READ ONLY" if snapshot else "READ COMMITTED"
        steps = [f"BEGIN ISOLATION LEVEL {mode}", self._live().settings, then]
        try:
            cursor = self._run("; ".join(filter(None, steps)), ())
            while cursor.nextset():
                pass
            return cursor.fetchone() if cursor.description else None
        except (psycopg.Error, UnicodeError) as error:
            raise self._noted(error) from error

    def _run(self, statement: str, values: Sequence[Any]) -> psycopg.Cursor[tuple[Any, ...]]:
        self.waiting_since = monotonic()
        try:
            return self._sent(statement, values)
        finally:
            self.waiting_since = None

    def _sent(self, statement: str, values: Sequence[Any]) -> psycopg.Cursor[tuple[Any, ...]]:
        # Without values the text may hold several statements, and is not prepared.
        cursor = self._live().execute(translated(statement), values or None)
        self._check_replicated()
        return cursor

    def _check_replicated(self) -> None:
        if self._live().unreplicated:
            raise psycopg.OperationalError("a commit was cancelled before a standby had it")

    def _live(self) -> Connection:
        if self._connection is None:
            raise ConnectionLost("there is no connection")
        return self._connection

    def _noted(self, error: psycopg.Error | UnicodeError) -> StoreError:
        if isinstance(error, UnicodeError):  # an unpaired surrogate
            return StatementFailed("a value is not valid text")
        failed = store_error(error)
        if self._connection is not None and self._connection.closed:
            failed = ConnectionLost(str(failed))
        if isinstance(failed, ConnectionLost):
            self.drop()
        if not isinstance(failed, StatementFailed):
            self.failure = failed
        return failed


class PipelinedRows(PostgresRows):
    """Rows for a writer: statements without rows are sent with the next one, in one round trip.

    An error may then be that of an earlier statement, so it fails the whole transaction, which can
    be repeated with `at_once`.
    """

    at_once = False
    """Send each statement when it is run: an error is its own."""

    def __init__(self, to: Mapping[str, Any], patience: Patience, admit: Admit) -> None:
        super().__init__(to, patience, admit)
        self._unsent: list[tuple[str, Sequence[Any]]] = []

    def begin(self, then: str = "", *, snapshot: bool = False) -> Any:
        """Begin a transaction; see `PostgresRows`."""
        self._unsent.clear()
        return super().begin(then, snapshot=snapshot)

    def run(self, statement: str, values: Sequence[Any] = ()) -> None:
        """Run a statement that returns no rows, together with the next one that returns some."""
        if self.at_once:
            super().run(statement, values)
        else:
            self._unsent.append((statement, values))

    def run_many(self, statement: str, values: Iterable[Sequence[Any]]) -> None:
        """Run a statement that returns no rows, once for each sequence of values."""
        for value in values:
            self.run(statement, value)

    def flush(self) -> None:
        """Send the statements that wait; raises the error of the first that fails."""
        if self._unsent:
            super().run(*self._unsent.pop())

    def roll_back(self) -> None:
        """Roll back; close the connection if that fails."""
        self._unsent.clear()
        super().roll_back()

    def _sent(self, statement: str, values: Sequence[Any]) -> psycopg.Cursor[tuple[Any, ...]]:
        if not self._unsent:
            return super()._sent(statement, values)
        unsent, self._unsent = self._unsent, []
        with self._live().pipeline():
            for earlier in unsent:
                super()._sent(*earlier)
            cursor = super()._sent(statement, values)
        self._check_replicated()
        return cursor

    def _noted(self, error: psycopg.Error | UnicodeError) -> StoreError:
        failed = super()._noted(error)
        if not self.at_once:
            self.failure = failed
        return failed


class PageRows(PostgresRows):
    """Rows for pages, fetched incrementally: their reader may stop before the end."""

    _names = count(1)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._fetching = set[psycopg.RawServerCursor[Any]]()

    def roll_back(self) -> None:
        """Close unfinished iterations, which an error may refer to for long; roll back."""
        while self._fetching:
            with suppress(psycopg.Error):
                self._fetching.pop().close()
        super().roll_back()

    def each(self, statement: str, values: Sequence[Any] = ()) -> Iterable[Any]:
        """Return the rows, inside a transaction fetched as they are read."""
        if self._live().info.transaction_status is TransactionStatus.INTRANS:
            return self._fetched(statement, values)
        return super().each(statement, values)

    def _fetched(self, statement: str, values: Sequence[Any]) -> Iterator[Any]:
        cursor = psycopg.RawServerCursor(self._live(), f"page_{next(self._names)}")
        self._fetching.add(cursor)
        try:
            cursor.execute(translated(statement), values or None)
            size = FETCHED_FIRST
            while rows := cursor.fetchmany(size):
                yield from rows
                if len(rows) < size:
                    return
                fitting = FETCHED_CHARACTERS // max(map(_characters, rows))
                size = max(min(2 * size, fitting, FETCHED_ROWS), 1)
        except (psycopg.Error, UnicodeError) as error:
            raise self._noted(error) from error
        finally:
            if cursor in self._fetching:
                self._fetching.remove(cursor)
                cursor.close()


@lru_cache(maxsize=64)  # more than the number of statements
def _joined(statement: SetStatement) -> str:
    """Return the statement for all rows, with an array for each column of values."""
    given = f"unnest({', '.join(f'?::{name}[]' for name in statement.types)})"
    return statement.joined.format(given=given) or _VALUES.sub(_ALL_OF + given, statement.each)


def _characters(row: Sequence[object]) -> int:
    """Return the length of a row's text, at least 1."""
    return 1 + sum(len(value) for value in row if isinstance(value, str))
