"""`interface.Store` on PostgreSQL: a thread and a connection for each kind of work.

One statement reads single records for all waiting callers (`reader`), writes share their commits
(`writer`), pages and the tail of the log have a connection each. Nothing runs in the event loop,
and decoded records are reused only while their row, read again, is unchanged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from typing import Any, Concatenate, Final, NamedTuple, ParamSpec, TypeVar

from keyauthority.clock import Reference, monotonic
from keyauthority.model import Change, LogId, Project, Revision
from keyauthority_server.store.batching.coalescer import Coalescer
from keyauthority_server.store.batching.write_batch import WriteUnit, await_commit
from keyauthority_server.store.interface import Transaction
from keyauthority_server.store.postgres import reader, writer
from keyauthority_server.store.postgres.connection import ConnectionLost, Patience, parameters
from keyauthority_server.store.postgres.database_turns import DatabaseTurns
from keyauthority_server.store.postgres.heartbeat import Heartbeat, read_clock
from keyauthority_server.store.postgres.notifications import Notifications
from keyauthority_server.store.postgres.reader import Reader, ReadRequest, ReadResult
from keyauthority_server.store.postgres.rollback_guard import RollbackGuard
from keyauthority_server.store.postgres.rows import PageRows, PipelinedRows, PostgresRows
from keyauthority_server.store.postgres.schema import schema_differences
from keyauthority_server.store.postgres.writer import Writer
from keyauthority_server.store.rows import Rows
from keyauthority_server.store.snapshots import Committed
from keyauthority_server.store.sql.log_head import newest_time, read_head
from keyauthority_server.store.sql.queries import changes, digests, imports
from keyauthority_server.store.sql.queries.lists import PAGE_CHARACTERS
from keyauthority_server.store.sql.row_codec import change_of
from keyauthority_server.store.sql.sql_store import SqlStore
from keyauthority_server.store.types import (
    NO_READS,
    ChangePage,
    DatedSnapshot,
    Entry,
    EntrySigner,
    ImportedToken,
    Reads,
    Scope,
    Snapshot,
    Snapshots,
)

T = TypeVar("T")
P = ParamSpec("P")

CLOSE_SECONDS: Final = 10.0  # more than every submitted call needs to succeed or fail
HEARING_POLL_SECONDS: Final = 0.1  # delay until a heartbeat is seen, which sends no notification
DEAF_POLL_SECONDS: Final = 0.02  # delay until a commit is seen without notifications
TRIES: Final = 2  # of a read, the second on a new connection
_PAGES: Final = Patience(statement=10, server=10, lock=2, idle=10)  # a page takes 50 ms

# As `statements.TAIL`, but without the changes that no page has room for: all rows are fetched.
_TAIL: Final = (
    "SELECT log.revision, next.revision, next.time, next.type, next.project_id,"  # noqa: S608 - a constant
    " next.keys, next.project FROM log LEFT JOIN ("
    "SELECT later.*, sum(characters) OVER (ORDER BY revision) - characters AS preceding FROM ("
    "SELECT revision, time, type, project_id, keys, project,"
    " octet_length(keys) + coalesce(octet_length(project), 0) AS characters"
    " FROM change WHERE revision > ? ORDER BY revision LIMIT ?) AS later"
    f") AS next ON next.preceding <= {PAGE_CHARACTERS}"
    " WHERE log.id = 1 ORDER BY next.revision"
)


def open_store(url: str, sign: EntrySigner, *, checked: bool = True) -> PostgresStore:
    """Open the database, which `migrate` has created.

    Unless `checked`, an altered schema is accepted, for `audit verify`, which reports it. Raises
    StoreUnusable with a one-line reason, and StoreUnavailable.
    """
    to, guard = parameters(url), RollbackGuard(altered_allowed=not checked)
    written = PipelinedRows(to, writer.PATIENCE, guard.admit)
    connections = Connections(
        reader=PostgresRows(to, reader.PATIENCE, guard.admit),
        pages=PageRows(to, _PAGES, guard.admit),
        tail=PostgresRows(to, reader.PATIENCE, guard.admit),
        writer=written,
        heartbeat=Heartbeat(to, guard),
        listening=Notifications(to, is_own=lambda process: process == written.process),
    )
    # The other connections open when needed.
    read_clock(connections.reader, connections.heartbeat.reference)
    return PostgresStore(connections, sign, guard)


class Connections(NamedTuple):
    """The connections of one process: one for each thread, and one for the event loop."""

    reader: PostgresRows
    pages: PageRows
    tail: PostgresRows
    writer: PipelinedRows
    heartbeat: Heartbeat
    listening: Notifications


class PostgresStore(SqlStore):
    """`interface.Store` on PostgreSQL. Open it with `open_store`; use it from one event loop."""

    def __init__(self, connections: Connections, sign: EntrySigner, guard: RollbackGuard) -> None:
        """Own the connections; the one for single records is already open."""
        self._guard = guard
        self._sign = sign
        self._pages = connections.pages
        self._tail = connections.tail
        self._heartbeat = connections.heartbeat
        self._listening = connections.listening
        self._reader = Reader(connections.reader, guard, connections.heartbeat)
        self._calls: Coalescer[ReadRequest, ReadResult] = Coalescer(
            self._reader.submit,
            seconds=reader.READ_SECONDS,
            late="the store did not answer in time",
        )
        self._writer = Writer(connections.writer, sign, guard, self._published)
        self._turns = DatabaseTurns(connections.writer, connections.reader)
        self._pager = ThreadPoolExecutor(1, thread_name_prefix="store-pages")
        self._tailer = ThreadPoolExecutor(1, thread_name_prefix="store-tail")
        self._moved = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._deliver: Committed = _undelivered

    @property
    def log_id(self) -> LogId:
        """The id of the change log that this store's revisions belong to."""
        return self._guard.log_id or LogId("")

    @property
    def proven_at(self) -> float:
        """Start of the newest committed heartbeat; see `FreshnessProver`."""
        return self._heartbeat.proven_at

    @property
    def reference(self) -> Reference:
        """The database's clock, as read by each heartbeat; see `FreshnessProver`."""
        return self._heartbeat.reference

    @property
    def acknowledged(self) -> Revision:
        """The newest revision committed by this process; see `FreshnessProver`."""
        return self._guard.acknowledged

    def deliver_commits(self, deliver: Committed) -> None:
        """Deliver this process's changes as it commits them; see `FreshnessProver`."""
        self._deliver = deliver

    async def start_heartbeats(self, seconds: float) -> None:
        """Start heartbeats; see `FreshnessProver`."""
        await _in_thread(self._tailer, self._heartbeat.begin, seconds)

    async def read_dated(self, access_keys: Sequence[str], operator: str | None) -> DatedSnapshot:
        """Read as `read_many` does, and return the proven age of the state."""
        answer = await self._ask(ReadRequest(tuple(access_keys), operator, proven=True))
        return DatedSnapshot(answer.snapshots, answer.as_of)

    async def read(self, access_key: str | None, operator: str | None) -> Snapshot:
        """Return a key with its project, and an operator's key, in the current state."""
        answer = await self._ask(ReadRequest((access_key,), operator))
        head, ((stored, project),), held_operator = answer.snapshots
        return Snapshot(head, stored, project, held_operator)

    async def read_many(self, access_keys: Sequence[str], operator: str | None) -> Snapshots:
        """Return many keys, each with its project, and an operator's key, in the current state."""
        return (await self._ask(ReadRequest(tuple(access_keys), operator))).snapshots

    async def get_project(self, project_id: str, scope: Scope) -> Project | None:
        """Return the project, or None if it is absent or out of scope."""
        if scope is not None and project_id not in scope:
            return None
        return (await self._ask(ReadRequest((), None, project_id))).project

    async def find_imported(self, digests: Sequence[bytes]) -> Mapping[bytes, ImportedToken]:
        """Return the imported key of each digest that one has."""
        return await self.query(imports.find_imported, digests)

    async def read_changes(self, after: int, limit: int) -> ChangePage:
        """Return up to `limit` changes after a revision, and the head of the log."""
        return await _in_thread(self._tailer, self._read_tail, after, limit)

    async def wait_for_changes(self, within: float) -> None:
        """Wait until there may be changes after the last `read_changes`."""
        self._listening.begin(self._moved.set)
        poll = HEARING_POLL_SECONDS if self._listening.connected else DEAF_POLL_SECONDS
        with suppress(TimeoutError):
            async with asyncio.timeout(min(within, poll)):
                await self._moved.wait()
        self._moved.clear()  # before the read, so that a commit during it ends the next wait

    async def write(
        self, work: Callable[[Transaction], T], *, urgent: bool = False, reads: Reads = NO_READS
    ) -> T:
        """Run `work` in a transaction, commit, and return its result; see `interface`.

        `urgent` work goes first. There is no reserve: the database server manages its own disk.
        """
        unit = WriteUnit(work, urgent=urgent, reads=reads)
        self._loop = asyncio.get_running_loop()
        self._writer.submit(unit)
        with self._turns:
            result: T = await await_commit(unit, writer.WRITE_SECONDS)
        return result

    async def check(self) -> None:
        """Raise StoreError unless records can be read now."""
        await self.read(None, None)

    def check_writer(self) -> None:
        """Do nothing: a lost connection is replaced, and no failure of a write is final."""

    async def newest_time(self) -> datetime | None:
        """Return the newest committed time, None for an empty log."""

        def read(rows: Rows) -> datetime | None:
            return newest_time(rows, read_head(rows), self._sign)

        return await _in_thread(self._tailer, self._checked, read)

    async def key_checks(self) -> Mapping[str, bytes]:
        """Return the check values that identify key files, by name."""
        return await _in_thread(self._tailer, self._checked, digests.key_checks)

    async def close(self) -> None:
        """Finish the submitted writes, then release all resources."""
        await self._listening.end()
        self._calls.flush()
        threads = (self._writer, self._reader)
        for thread in threads:
            thread.close()
        stopped = [asyncio.wrap_future(thread.stopped) for thread in threads]
        await asyncio.wait(stopped, timeout=CLOSE_SECONDS)
        await _in_thread(self._tailer, self._heartbeat.end)
        for executor, rows in ((self._pager, self._pages), (self._tailer, self._tail)):
            await _in_thread(executor, rows.drop)
            executor.shutdown()

    async def query(
        self, read: Callable[Concatenate[Rows, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Return the result of `read` in one read transaction, in a thread."""
        return await _in_thread(
            self._pager, self._snapshot, lambda rows: read(rows, *args, **kwargs)
        )

    async def schema_differences(self) -> Sequence[str]:
        """Return the differences from the schema of the migrations."""
        return await _in_thread(self._pager, self._differences)

    async def _ask(self, question: ReadRequest) -> ReadResult:
        with self._turns:
            return await self._calls.submit(question, len(question.access_keys) + 1)

    def _published(self, head: Revision, entries: Sequence[Entry]) -> None:
        """Hand changes to the loop, from the writer's thread, before their callers are answered."""
        changes = [change_of(entry) for entry in entries]
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._take_commits, head, changes)

    def _take_commits(self, head: Revision, changes: Sequence[Change]) -> None:
        if not self._deliver(head, changes):
            self._moved.set()

    def _snapshot(self, read: Callable[[Rows], T]) -> T:
        return self._checked(read, self._pages, snapshot=True)

    def _checked(
        self, read: Callable[[Rows], T], rows: PostgresRows | None = None, *, snapshot: bool = False
    ) -> T:
        """Read a state that is at least as new as any seen; on the tail's connection by default."""
        newest = self._guard.newest

        def checked(rows: PostgresRows) -> T:
            self._guard.check_now(rows, newest)
            return read(rows)

        return _read(rows or self._tail, checked, snapshot=snapshot)

    def _differences(self) -> list[str]:
        self._pages.ready()
        return schema_differences(self._pages)

    def _read_tail(self, after: int, limit: int) -> ChangePage:
        newest, now = self._guard.newest, monotonic()

        def read(rows: PostgresRows) -> ChangePage:
            as_of = self._heartbeat.seen(rows) if self._heartbeat.begun else now
            tail = changes.read_changes(rows, after, limit, as_of, _TAIL)
            self._guard.check(rows, tail.head, newest)
            return tail

        return _read(self._tail, read)


def _read(rows: PostgresRows, read: Callable[[PostgresRows], T], *, snapshot: bool = False) -> T:
    """Read, retrying once on a new connection if it was lost; a `snapshot` is one state."""
    for _ in range(1, TRIES):
        try:
            return _read_once(rows, read, snapshot=snapshot)
        except ConnectionLost:
            continue
    return _read_once(rows, read, snapshot=snapshot)


def _read_once(rows: PostgresRows, read: Callable[[PostgresRows], T], *, snapshot: bool) -> T:
    if not snapshot:
        with rows.reading():
            return read(rows)
    try:
        rows.begin(snapshot=True)
        found = read(rows)
        rows.commit()
    finally:
        rows.roll_back()
    return found


def _undelivered(head: Revision, changes: Sequence[Change]) -> bool:
    return False


async def _in_thread(executor: ThreadPoolExecutor, call: Callable[..., T], *arguments: Any) -> T:
    return await asyncio.get_running_loop().run_in_executor(executor, call, *arguments)
