"""A SQLite database, and the counters beside it, as one end of a copy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from keyauthority.model import Revision
from keyauthority_server.store.interface import StoreUnusable
from keyauthority_server.store.sqlite.connection import WRITE_BUSY_MS, SqliteRows, connect, sqlite3
from keyauthority_server.store.sqlite.counters import counters_path
from keyauthority_server.store.sqlite.file_lock import FairFileLock
from keyauthority_server.store.sqlite.rollback_guard import (
    Head,
    check_head,
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


class SqliteEndpoint:
    """`copying.Place` on SQLite. Servers may have it open."""

    def __init__(self, path: Path, *, whole: bool) -> None:
        """Open the database at `path`; if it is the source, it must be `whole`.

        Raises StoreRefused with one line, and StoreError.
        """
        self._path = path
        with ExitStack() as opened:
            self._opened = opened
            noted = read_saved_head(path)
            self._rows, self._lock = self._open(path, RECORDS, noted if whole else None, whole)
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
        """The file, however it was named."""
        found = self._path.stat()
        return f"{found.st_dev} {found.st_ino}"

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold up all other writers, and commit at the end."""
        with _transaction(self._rows, self._lock):
            yield

    @contextmanager
    def writing_counters(self) -> Iterator[None]:
        """Hold up all who draw, and commit at the end."""
        with _transaction(self._counters, self._counters_lock):
            yield

    def opened_as(self, log_id: str, revision: int) -> None:
        """Note the head beside the database: it is the one that is committed already."""
        save_head(self._path, Head(log_id, Revision(revision)))

    def close(self) -> None:
        """Let go of the files."""
        self._opened.close()

    def _open(
        self, path: Path, schema: Schema, noted: Head | None = None, whole: bool = False
    ) -> tuple[SqliteRows, FairFileLock]:
        if not path.is_file():
            raise StoreUnusable(f"there is no database at {path}")
        try:
            connection = connect(path, WRITE_BUSY_MS)
            self._opened.callback(connection.close)
            check_schema(connection, path, schema)
            if whole:
                check_head(connection, path, noted)
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
        rows.one("PRAGMA wal_checkpoint(PASSIVE)")  # else the log of a long copy grows as long
