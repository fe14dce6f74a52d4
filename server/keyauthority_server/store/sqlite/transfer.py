"""A SQLite database and its counters as an endpoint of a copy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from keyauthority_server.store.interface import StoreUnusable
from keyauthority_server.store.sqlite.connection import WRITE_BUSY_MS, SqliteRows, connect, sqlite3
from keyauthority_server.store.sqlite.counters import counters_path
from keyauthority_server.store.sqlite.file_lock import FairFileLock
from keyauthority_server.store.sqlite.rollback_guard import (
    check_head,
    head_path,
    read_saved_head,
    save_head,
)
from keyauthority_server.store.sqlite.schema import (
    COUNTERS,
    RECORDS,
    Schema,
    check_schema,
    refused_or_failed,
)
from keyauthority_server.store.types import LogHead


class SqliteEndpoint:
    """`transfer.Endpoint` on SQLite. Servers may have the database open."""

    def __init__(self, path: Path, *, whole: bool) -> None:
        """Open the database at `path`; the source must be `whole`.

        Raises StoreUnusable with a one-line reason, and StoreError.
        """
        self._path = path
        with ExitStack() as opened:
            self._opened = opened
            saved = read_saved_head(path)
            self._rows, self._lock = self._open(path, RECORDS, saved if whole else None, whole)
            self._counters, self._counters_lock = self._open(counters_path(path), COUNTERS)
            self._opened = opened.pop_all()

    @property
    def rows(self) -> SqliteRows:
        """Runs statements on the database."""
        return self._rows

    @property
    def counters(self) -> SqliteRows:
        """Runs statements on the counters."""
        return self._counters

    @property
    def identity(self) -> str:
        """Identifies the file, independently of its path."""
        found = self._path.stat()
        return f"{found.st_dev} {found.st_ino}"

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Exclude all other writers, and commit at the end."""
        with _transaction(self._rows, self._lock):
            yield

    @contextmanager
    def writing_counters(self) -> Iterator[None]:
        """Exclude all spends, and commit at the end."""
        with _transaction(self._counters, self._counters_lock):
            yield

    def opened_as(self, head: LogHead) -> None:
        """Save the head next to the database: it is already committed."""
        save_head(head_path(self._path), head)

    def close(self) -> None:
        """Close the files."""
        self._opened.close()

    def _open(
        self, path: Path, schema: Schema, saved: LogHead | None = None, whole: bool = False
    ) -> tuple[SqliteRows, FairFileLock]:
        if not path.is_file():
            raise StoreUnusable(f"there is no database at {path}")
        try:
            connection = connect(path, WRITE_BUSY_MS)
            self._opened.callback(connection.close)
            check_schema(connection, path, schema)
            if whole:
                check_head(connection, path, saved)
            lock = FairFileLock(path)
        except sqlite3.DatabaseError as error:
            raise refused_or_failed(error, path) from error
        except OSError as error:
            raise StoreUnusable(f"cannot use {path}: {error.strerror}") from error
        self._opened.callback(lock.close)
        return SqliteRows(connection), lock


@contextmanager
def _transaction(rows: SqliteRows, lock: FairFileLock) -> Iterator[None]:
    with lock:
        rows.run("BEGIN IMMEDIATE")
        try:
            yield
            rows.run("COMMIT")
        finally:
            if rows.in_transaction:
                rows.run("ROLLBACK")
        rows.one("PRAGMA wal_checkpoint(PASSIVE)")  # bounds the write-ahead log of a long copy
