"""`interface.Store` on SQLite: one file, for one machine and any number of its processes.

Single records are read in the event loop, some 10 µs each, pages in a thread of their own, and
writes go through the writer thread. Every read sees the commits of all processes.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from keyauthority.clock import monotonic
from keyauthority.model import LogId, Project, Revision
from keyauthority_server.private_files import explain, unwritable
from keyauthority_server.store.batching.write_batch import WriteBatch, WriteUnit, await_commit
from keyauthority_server.store.interface import (
    StoreDamaged,
    StoreError,
    StoreUnavailable,
    StoreUnusable,
    Transaction,
)
from keyauthority_server.store.rows import Row, Rows, characters
from keyauthority_server.store.sql.integrity import stored_project
from keyauthority_server.store.sql.log_head import checked_head, newest_time, read_head
from keyauthority_server.store.sql.queries import changes, digests, imports
from keyauthority_server.store.sql.record_decoder import (
    decode_outline,
    decode_snapshot,
    decode_snapshots,
)
from keyauthority_server.store.sql.sql_store import SqlStore
from keyauthority_server.store.sql.statements import (
    GET_PROJECT,
    HEAD,
    NAMES_CHANGED,
    OUTLINE,
    READ_SNAPSHOT,
    READ_SNAPSHOTS,
)
from keyauthority_server.store.sqlite.changes import TailReader
from keyauthority_server.store.sqlite.connection import (
    FILES,
    READ_BUSY_MS,
    READS_CACHE,
    REQUESTED,
    WRITE_BUSY_MS,
    FileIdentity,
    SqliteRows,
    UncachedReader,
    affected_library,
    connect,
    sqlite3,
)
from keyauthority_server.store.sqlite.counters import counters_path, open_counters
from keyauthority_server.store.sqlite.disk_reserve import DiskReserve
from keyauthority_server.store.sqlite.file_lock import LOCKS, FairFileLock
from keyauthority_server.store.sqlite.rollback_guard import (
    check_head,
    head_path,
    read_saved_head,
    save_head,
)
from keyauthority_server.store.sqlite.schema import (
    COUNTERS,
    RECORDS,
    check_schema,
    refused_or_failed,
    schema_differences,
)
from keyauthority_server.store.sqlite.schema import migrate as migrate_file
from keyauthority_server.store.sqlite.writer import Writer
from keyauthority_server.store.types import (
    NO_READS,
    ChangePage,
    DatedSnapshot,
    Entry,
    EntrySigner,
    ImportedToken,
    LogHead,
    Reads,
    Scope,
    Snapshot,
    Snapshots,
    StoredKey,
)

__all__ = [
    "SqliteStore",
    "affected_library",
    "migrate",
    "open_counters",
    "open_store",
    "sqlite_files",
]

T = TypeVar("T")
P = ParamSpec("P")

WRITE_TIMEOUT: Final = 5.0  # seconds: more than a queue of writers takes, less than callers wait
READS_IN_LOOP: Final = 32  # some 0.1 ms each: a slow batch must not keep other calls waiting
CHARACTERS_IN_LOOP: Final = 256 * 1024  # of their rows, which take some 3 ms to decode
CHANGES_IN_LOOP: Final = 64  # some 50 µs each: the newest must not wait behind a page
CLOSE_TIMEOUT: Final = 10.0  # seconds: more than every submitted write needs to succeed or fail

_READ_SNAPSHOTS: Final = REQUESTED + READ_SNAPSHOTS

# Rows that lie first and last in the file: their pages are the tables' roots and the newest leaves.
_ENDS: Final = (
    "SELECT digest FROM key ORDER BY access_key LIMIT 1",
    "SELECT digest FROM key ORDER BY created_revision DESC LIMIT 1",
    "SELECT display_name FROM project ORDER BY project_id LIMIT 1",
    "SELECT hash FROM change ORDER BY revision LIMIT 1",
    "SELECT hash FROM change ORDER BY revision DESC LIMIT 1",
)


def migrate(path: Path) -> None:
    """Migrate the database at `path` and its counters; create missing files.

    See `schema.migrate`.
    """
    migrate_file(path, RECORDS)
    migrate_file(counters_path(path), COUNTERS)


def sqlite_files(path: Path) -> tuple[Path, ...]:
    """Return all files of the database at `path`, existing or not."""
    return tuple(
        file.with_name(file.name + end)
        for file in (path, counters_path(path))
        for end in (*FILES, ".head", ".reserve", *LOCKS)
    )


def open_store(
    path: Path, sign: EntrySigner, *, checkpoints: bool = True, checked: bool = True
) -> SqliteStore:
    """Open the database at `path`, which `migrate` has created.

    Exactly one of the processes that have it open should run `checkpoints`; without one the
    write-ahead log grows, with several they compete. Raises StoreUnusable with a one-line reason,
    and StoreUnavailable. Unless `checked`, a shortened log and an altered schema are accepted, for
    commands that only inspect the database.
    """
    if not path.is_file():
        raise StoreUnusable(f"there is no database at {path}")
    if checked and (reason := unwritable(path)):  # SQLite opens such a file, and only reads it
        raise StoreUnusable(reason)
    with ExitStack() as opened:
        try:
            saved = read_saved_head(path)
            reader = connect(path, READ_BUSY_MS, cache=READS_CACHE)
            opened.callback(reader.close)
            check_schema(reader, path, RECORDS, altered_allowed=not checked)
            head = check_head(reader, path, saved) if checked else LogHead(LogId(""), Revision(0))
            rows = SqliteRows(reader)
            pages = SqliteRows(connect(path, READ_BUSY_MS))
            opened.callback(pages.close)
            identity = FileIdentity(path)
            uncached = UncachedReader(path, identity)
            opened.callback(uncached.close)
            lock = FairFileLock(path)
            opened.callback(lock.close)
            written = SqliteRows(connect(path, WRITE_BUSY_MS))
            opened.callback(written.close)
            save = partial(_save_newest, head_path(path), head)
            job = WriteBatch(written, sign, save, others=written.version)
            reserve = DiskReserve(path)
            opened.callback(reserve.close)
            writer = Writer(
                *(written, lock, job, identity.check),
                name="store-writer",
                checkpoints=checkpoints,
                reserve=reserve,
            )
        except OSError as error:
            raise StoreUnusable(explain(error, f"{path} cannot be opened")) from error
        except sqlite3.DatabaseError as error:
            raise refused_or_failed(error, path) from error
        store = SqliteStore(rows, pages, uncached, writer, identity, sign)
        opened.pop_all()
        return store


def _save_newest(file: Path, head: LogHead, entries: Sequence[Entry]) -> None:
    save_head(file, head._replace(revision=entries[-1].revision))


class SqliteStore(SqlStore):
    """`interface.Store` on SQLite. Open it with `open_store`; use it from one event loop."""

    def __init__(
        self,
        rows: SqliteRows,
        pages: SqliteRows,
        uncached: UncachedReader,
        writer: Writer[WriteUnit],
        identity: FileIdentity,
        sign: EntrySigner,
    ) -> None:
        self._sign = sign
        self._rows = rows
        self._pages = pages
        self._uncached = uncached
        self._writer = writer
        self._identity = identity
        self._pager = ThreadPoolExecutor(1, thread_name_prefix="store-reader")
        self._tail = TailReader(rows)
        self._newest = Revision(0)
        self._log_id = checked_head(rows).log_id

    @property
    def log_id(self) -> LogId:
        """The id of the change log that this store's revisions belong to."""
        return self._log_id

    def head(self) -> Revision:
        """Return the newest revision committed by any process."""
        return self._followed(Revision(self._row(HEAD)[0]))

    def outline(self, access_key: str) -> StoredKey:
        """Return only the fields needed to compare a token; see `LocalLog`."""
        self._check_identity()
        return decode_outline(access_key, self._rows.one(OUTLINE, (access_key,)))

    def names_changed_since(self, after: Revision, limit: int) -> list[str] | None:
        """Return the records changed after a revision; None for more than `limit` changes."""
        self._check_identity()
        rows = list(self._rows.each(NAMES_CHANGED, (after, limit + 1)))
        return None if len(rows) > limit else [key or project for key, project in rows]

    async def read(self, access_key: str | None, operator: str | None) -> Snapshot:
        """Return a key with its project, and an operator's key, in the current state."""
        snapshot = decode_snapshot(self._row(READ_SNAPSHOT, (access_key, operator)))
        self._followed(snapshot.head)
        return snapshot

    async def read_many(self, access_keys: Sequence[str], operator: str | None) -> Snapshots:
        """Return many keys, each with its project, and an operator's key, in the current state."""
        if len(access_keys) == 1:
            head, stored, project, held_operator = await self.read(access_keys[0], operator)
            return Snapshots(head, [(stored, project)], held_operator)
        self._check_identity()
        names = json.dumps([*access_keys, operator])

        if len(access_keys) > READS_IN_LOOP:  # its state may be older than the loop's newest read
            return await self.query(
                lambda rows: decode_snapshots(list(rows.each(_READ_SNAPSHOTS, (names,))))
            )
        found = list(self._rows.each(_READ_SNAPSHOTS, (names,)))
        if found:
            self._followed(Revision(found[0][0]))
        if sum(map(characters, found)) <= CHARACTERS_IN_LOOP:
            return decode_snapshots(found)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pager, decode_snapshots, found)

    async def read_dated(self, access_keys: Sequence[str], operator: str | None) -> DatedSnapshot:
        """Read as `read_many` does; `as_of` is the time of the call."""
        as_of = monotonic()
        return DatedSnapshot(await self.read_many(access_keys, operator), as_of)

    async def get_project(self, project_id: str, scope: Scope) -> Project | None:
        """Return the project, or None if it is absent or out of scope."""
        if scope is not None and project_id not in scope:
            return None
        self._check_identity()
        row = self._rows.one(GET_PROJECT, (project_id,))
        return None if row is None else stored_project(row)

    async def find_imported(self, digests: Sequence[bytes]) -> Mapping[bytes, ImportedToken]:
        """Return the imported key of each digest that one has; a few are read in the loop."""
        if len(digests) > READS_IN_LOOP:
            return await self.query(imports.find_imported, digests)
        self._check_identity()
        return imports.find_imported(self._rows, digests)

    async def read_changes(self, after: int, limit: int) -> ChangePage:
        """Return up to `limit` changes after a revision; small pages are read in the loop."""
        if limit > CHANGES_IN_LOOP:
            as_of = monotonic()
            return await self.query(changes.read_changes, after, limit, as_of)
        self._check_identity()
        return self._tail.read(after, limit)

    async def wait_for_changes(self, within: float) -> None:
        """Wait until there may be changes after the last `read_changes`."""
        await self._tail.wait_for_changes(within)

    async def write(
        self, work: Callable[[Transaction], T], *, urgent: bool = False, reads: Reads = NO_READS
    ) -> T:
        """Run `work` in a transaction, commit, and return its result; see `interface`."""
        unit = WriteUnit(work, urgent=urgent)
        self._writer.submit(unit)
        try:
            result: T = await await_commit(unit, WRITE_TIMEOUT)
        finally:
            self._tail.notify()
        return result

    async def check(self) -> None:
        """Raise StoreError unless the files hold the log and both ends of each record table."""
        self._uncached.check(HEAD, *_ENDS)

    def check_writer(self) -> None:
        """Raise StoreUnavailable after a failed write or sync: see `Writer`."""
        self._writer.check()

    async def newest_time(self) -> datetime | None:
        """Return the newest committed time, None for an empty log."""
        self._check_identity()
        return newest_time(self._rows, read_head(self._rows), self._sign)

    async def key_checks(self) -> Mapping[str, bytes]:
        """Return the check values that identify key files, by name."""
        return digests.key_checks(self._rows)

    async def close(self) -> None:
        """Finish the submitted writes, then release all resources."""
        self._writer.close()
        await asyncio.wait((asyncio.wrap_future(self._writer.stopped),), timeout=CLOSE_TIMEOUT)
        self._pager.shutdown()
        for connection in (self._pages, self._uncached, self._rows):
            connection.close()

    async def query(
        self, read: Callable[Concatenate[Rows, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Return the result of `read` in one read transaction, in a thread."""
        self._check_identity()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._pager, self._snapshot, lambda rows: read(rows, *args, **kwargs)
        )

    async def schema_differences(self) -> Sequence[str]:
        """Return the differences from the schema of the migrations."""
        return await self.query(schema_differences, RECORDS)

    def _snapshot(self, read: Callable[[Rows], T]) -> T:
        self._pages.run("BEGIN")
        try:
            return read(self._pages)
        finally:
            self._pages.end_iterations()
            if self._pages.in_transaction:
                self._pages.run("COMMIT")

    def _followed(self, head: Revision) -> Revision:
        """Return the head of the log; StoreDamaged if it is behind an earlier read."""
        if head < self._newest:
            raise StoreDamaged(f"the log ends at change {head}, but had change {self._newest}")
        self._newest = head
        return head

    def _check_identity(self) -> None:
        if self._identity.lost:
            raise StoreUnavailable(self._identity.lost)

    def _row(self, statement: str, values: Sequence[Any] = ()) -> Row:
        """Return the row of a statement that always reads the counter row."""
        self._check_identity()
        row: Row | None = self._rows.one(statement, values)
        if row is None:
            raise StoreError("the counter row is missing")
        return row
