"""Connections to a SQLite file: driver, settings, errors, identity of the open file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog

from keyauthority_server.private_files import check_private, explain
from keyauthority_server.store.interface import (
    StoreError,
    StoreFull,
    StoreUnavailable,
    StoreUnusable,
)
from keyauthority_server.store.rows import SetStatement, ValuesTable

if TYPE_CHECKING:
    import sqlite3 as sqlite3  # the rest of the engine takes the driver from here
else:
    try:
        import pysqlite3 as sqlite3
    except ImportError:  # no wheel for this platform; see `affected_library`
        import sqlite3

READ_BUSY_MS: Final = (
    50  # a reader waits only while the write-ahead log is recovered; it is the loop
)
WRITE_BUSY_MS: Final = 2_000  # a fallback for writers that do not use the lock files
FILES: Final = ("", "-wal", "-shm", "-journal")  # suffixes of the files of a SQLite database
WAL_KEPT_BYTES: Final = 64 << 20  # size that the write-ahead log's file keeps after a burst
# Page cache in KiB, allocated on use: for Verify 6,000 keys in use and all inner pages.
READS_CACHE: Final = "PRAGMA cache_size = -24576"
_CACHE: Final = "PRAGMA cache_size = -8192"

REQUESTED: Final = "WITH requested (number, value) AS (SELECT key, value FROM json_each(?)) "

_FIRST_SOUND: Final = (3, 51, 3)  # before: two processes can corrupt a database in WAL mode
# Result codes, https://www.sqlite.org/rescode.html
_PASSING: Final = frozenset({4, 5, 6, 7, 9})  # ABORT, BUSY, LOCKED, NOMEM, INTERRUPT
_BROKEN: Final = frozenset({3, 8, 10, 11, 14, 15, 26})  # of the file, the device or the rights
_FULL: Final = 13
_FULL_SHARED_MEMORY: Final = 4874  # IOERR_SHMSIZE: no space for the index of the write-ahead log
_DAMAGED: Final = frozenset({11, 26, 522})  # CORRUPT, NOTADB, IOERR_SHORT_READ

_log = structlog.get_logger(__name__)


class StoreBroken(StoreUnavailable):
    """The file or the device failed: its content is unknown until it is opened again."""


class StoreOverwritten(StoreBroken):
    """The file holds other bytes than SQLite wrote, or fewer."""


class StatementFailed(StoreError):
    """One statement failed or violated a constraint; only that statement was undone."""


def affected_library() -> bool:
    """True if the SQLite in use can corrupt a database that several processes write."""
    return sqlite3.sqlite_version_info < _FIRST_SOUND


def connect(
    path: Path,
    busy_ms: int,
    *,
    create: bool = False,
    durable: bool = True,
    cache: str = _CACHE,
    private: bool = True,
) -> sqlite3.Connection:
    """Return a checked connection in autocommit; raises sqlite3.Error and StoreUnusable.

    `durable` commits survive a loss of power, others only the death of the process. `private`
    files must satisfy `private_files`. The connection may move to another thread, but serves one at
    a time.
    """
    for ending in FILES if private else ():
        try:
            check_private(path.with_name(path.name + ending))
        except OSError as error:
            raise StoreUnusable(explain(error, f"cannot use {path}")) from error
    mode = "rwc" if create else "rw"
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=busy_ms / 1000,
    )
    try:
        for pragma in (_DURABLE if durable else _FAST, *_SETTINGS, cache):
            connection.execute(pragma)
    except UnicodeDecodeError as error:  # SQLite's own message, which quotes it
        connection.close()
        raise sqlite3.DatabaseError("the schema is not valid text") from error
    except sqlite3.Error:
        connection.close()
        raise
    return connection


_DURABLE: Final = "PRAGMA synchronous = FULL"
_FAST: Final = "PRAGMA synchronous = NORMAL"
_SETTINGS: Final = (
    "PRAGMA foreign_keys = ON",
    "PRAGMA mmap_size = 0",  # with mmap a truncated file raises a signal instead of an error
    "PRAGMA trusted_schema = OFF",
    "PRAGMA wal_autocheckpoint = 0",  # only one process runs checkpoints
    f"PRAGMA journal_size_limit = {WAL_KEPT_BYTES}",
)


def store_error(error: sqlite3.Error) -> StoreError:
    """Translate an error of the driver."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    text = f"{type(error).__name__}: {error}"
    if code is None:
        return StatementFailed(text)
    if code & 0xFF == _FULL or code == _FULL_SHARED_MEMORY:
        return StoreFull(text)
    if code & 0xFF in _PASSING:
        return StoreUnavailable(text)
    if code in _DAMAGED or code & 0xFF in _DAMAGED:
        return StoreOverwritten(text)
    return StoreBroken(text) if code & 0xFF in _BROKEN else StatementFailed(text)


class SqliteRows:
    """`store.rows.Rows` over a connection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._cursor = connection.cursor()  # shared: a new cursor for each statement costs 10 µs
        self._iterated = set[sqlite3.Cursor]()
        self.failure: StoreError | None = None
        """The last error that lost the whole transaction."""

    def one(self, statement: str, values: Sequence[Any] = ()) -> Any:
        """Return the first row, or None. The statement must return at most one row."""
        try:
            return self._cursor.execute(statement, values).fetchone()
        except sqlite3.Error as error:
            raise self._noted(error) from error

    def each(self, statement: str, values: Sequence[Any] = ()) -> Iterable[Any]:
        """Return the rows: inside a transaction as they are read, else all at once."""
        rows = self._read(statement, values)
        return rows if self.in_transaction else list(rows)

    def end_iterations(self) -> None:
        """Close those that were not finished; call it before the end of a transaction.

        An error refers to the iteration in which it was raised. As long as the error lives, the
        iteration would hold its snapshot open, and later reads would return that state.
        """
        while self._iterated:
            self._iterated.pop().close()

    def _read(self, statement: str, values: Sequence[Any]) -> Iterator[Any]:
        cursor = self._connection.cursor()
        self._iterated.add(cursor)
        try:
            yield from map(tuple, cursor.execute(statement, values))  # `map` leaves it open
        except sqlite3.Error as error:
            raise self._noted(error) from error
        finally:
            if cursor in self._iterated:
                self._iterated.remove(cursor)
                cursor.close()

    def run(self, statement: str, values: Sequence[Any] = ()) -> None:
        """Run a statement that returns no rows."""
        try:
            self._cursor.execute(statement, values)
        except sqlite3.Error as error:
            raise self._noted(error) from error

    def run_many(self, statement: str, values: Iterable[Sequence[Any]]) -> None:
        """Run a statement that returns no rows, once for each sequence of values."""
        try:
            self._cursor.executemany(statement, values)
        except sqlite3.Error as error:
            raise self._noted(error) from error

    def run_set(self, statement: SetStatement, values: Sequence[Sequence[Any]]) -> None:
        """Run a statement for a set of rows of values: here one by one is fastest."""
        self.run_many(statement.each, values)

    def values_table(self, values: Iterable[str]) -> ValuesTable:
        """Return values as a table for a statement."""
        return ValuesTable(REQUESTED, json.dumps(list(values)))

    def version(self) -> int:
        """Return another number after each commit of another connection."""
        (version,) = self.one("PRAGMA data_version")
        return int(version)

    @property
    def in_transaction(self) -> bool:
        """True between BEGIN and its end."""
        return self._connection.in_transaction

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _noted(self, error: sqlite3.Error) -> StoreError:
        failed = store_error(error)
        if not isinstance(failed, StatementFailed):
            self.failure = failed
        return failed


class FileIdentity:
    """Detects that the database or one of its files was unlinked, replaced, truncated or damaged.

    A process that keeps the old file open would serve it for ever, and miss every revocation. One
    that serves an overwritten file from its caches would acknowledge changes that a restart loses.
    """

    def __init__(self, path: Path) -> None:
        self._paths = tuple(path.with_name(path.name + end) for end in ("", "-wal", "-shm"))
        self._seen, self._size = self._look()
        self.lost = ""
        """The reason, permanently once detected."""

    def check(self) -> None:
        """Raise StoreBroken if a file differs from the one that was opened."""
        try:
            seen, size = self._look()
            if seen != self._seen or size < self._size:  # the database never shrinks
                self.lost = self.lost or _REPLACED
            self._size = size
        except FileNotFoundError:
            self.lost = self.lost or _REPLACED
        if self.lost:
            raise StoreBroken(self.lost)

    def _look(self) -> tuple[list[tuple[int, int]], int]:
        """Return the identities of the files, and the size of the database."""
        # stat only: opening and closing the file would drop SQLite's locks on it
        found = list(map(os.stat, self._paths))
        return [(file.st_dev, file.st_ino) for file in found], found[0].st_size


_REPLACED: Final = "the database file was replaced: restart the server to open it again"
_OVERWRITTEN: Final = "the database file was overwritten or damaged: stop the server and restore it"


class UncachedReader:
    """Reads a database from its files: the caches of other connections hide damage."""

    def __init__(self, path: Path, identity: FileIdentity) -> None:
        self._identity = identity
        # Immutable: page 1 of the file itself, even if the write-ahead log holds a newer one.
        uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
        file = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
        self._file = SqliteRows(file)
        self._file.run(_ANY_SIZE)
        self._rows = SqliteRows(connect(path, READ_BUSY_MS))

    def check(self, *statements: str) -> None:
        """Read the header of the file, and run statements; raises StoreError.

        Damage counts as the loss of the file.
        """
        self._identity.check()
        try:
            for rows, run in ((self._file, (_HEADER,)), (self._rows, statements)):
                rows.run(_FORGET)
                for statement in run:
                    rows.one(statement)
        except StoreOverwritten as error:
            _log.critical("store_overwritten", error=str(error))
            self._identity.lost = _OVERWRITTEN
            raise

    def close(self) -> None:
        """Close the connections."""
        self._rows.close()
        self._file.close()


_FORGET: Final = "PRAGMA shrink_memory"  # drops the pages that the connection has cached
# Accepts a file that is shorter than its header says, as it is in the midst of a checkpoint.
_ANY_SIZE: Final = "PRAGMA writable_schema = ON"
_HEADER: Final = "PRAGMA schema_version"
