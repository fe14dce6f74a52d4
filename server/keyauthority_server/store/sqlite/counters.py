"""Counters of limits, in a SQLite file of their own next to the database.

Commits do not wait for the disk (`synchronous=NORMAL`): they survive the death of the process, not
a loss of power. Spends are made in the event loop while no other process spends (`LoopSpender`);
otherwise one thread commits for all waiting callers. Checkpoints, which wait for the disk, run in
the thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final

from keyauthority_server.private_files import explain
from keyauthority_server.store.batching.coalescer import (
    CallBatch,
    Coalescer,
    fail,
    pending,
    resolve,
)
from keyauthority_server.store.counters import (
    COUNTERS_CLOSED,
    HANDED_OVER,
    NOT_SPENT,
    CounterBatch,
    CountersHandedOver,
    Spend,
    SpendResult,
    spend_failure,
)
from keyauthority_server.store.interface import (
    StoreError,
    StoreFull,
    StoreUnavailable,
    StoreUnusable,
)
from keyauthority_server.store.sqlite.connection import (
    WRITE_BUSY_MS,
    FileIdentity,
    SqliteRows,
    UncachedReader,
    connect,
    sqlite3,
)
from keyauthority_server.store.sqlite.file_lock import FairFileLock
from keyauthority_server.store.sqlite.schema import COUNTERS, check_schema, refused_or_failed
from keyauthority_server.store.sqlite.writer import Answer, Writer

SPEND_TIMEOUT: Final = 2.0  # seconds: many times the duration of a queue of spends
COUNTERS_IN_LOOP: Final = 256  # counters, some 6 µs each: other calls must not wait long
COUNTS_KNOWN: Final = 65_536  # counters of the event loop's spends in memory; some 15 MB
CLOSE_TIMEOUT: Final = 10.0  # seconds: more than every submitted spend needs to succeed or fail
_FIRST: Final = "SELECT used FROM counter LIMIT 1"


def counters_path(database: Path) -> Path:
    """Return the path of a database's counters."""
    return database.with_name(f"{database.stem}-counters{database.suffix}")


def open_counters(database: Path, *, checkpoints: bool = True) -> SqliteCounters:
    """Open the counters of a database, which `migrate` has created.

    Exactly one of the processes that have them open should run `checkpoints`. Raises StoreUnusable
    with a one-line reason, and StoreUnavailable.
    """
    path = counters_path(database)
    if not path.is_file():
        raise StoreUnusable(f"there are no counters at {path}")
    with ExitStack() as opened:
        try:
            connection = connect(path, WRITE_BUSY_MS, durable=False)
            opened.callback(connection.close)
            check_schema(connection, path, COUNTERS)
            rows, in_loop = SqliteRows(connection), SqliteRows(connect(path, 0, durable=False))
            opened.callback(in_loop.close)
            lock, loop_lock = FairFileLock(path), FairFileLock(path)
            opened.callback(loop_lock.close)
            opened.callback(lock.close)
            identity = FileIdentity(path)
            uncached = UncachedReader(path, identity)
            opened.callback(uncached.close)
            writer = Writer(
                *(rows, lock, _CounterJob(rows), identity.check),
                name="counters",
                checkpoints=checkpoints,
            )
        except OSError as error:
            raise StoreUnusable(explain(error, f"{path} cannot be opened")) from error
        except sqlite3.DatabaseError as error:
            raise refused_or_failed(error, path) from error
        opened.pop_all()
        return SqliteCounters(writer, LoopSpender(in_loop, loop_lock, identity.check), uncached)


SpendBatch = CallBatch[Sequence[Spend], Sequence[SpendResult]]


class SqliteCounters:
    """`counters.Counters` on SQLite. Open it with `open_counters`; use it from one event loop."""

    def __init__(
        self, writer: Writer[SpendBatch], in_loop: LoopSpender, uncached: UncachedReader
    ) -> None:
        self._writer = writer
        self._in_loop = in_loop
        self._uncached = uncached
        self._calls: Coalescer[Sequence[Spend], Sequence[SpendResult]] = Coalescer(
            writer.submit, seconds=SPEND_TIMEOUT, late=NOT_SPENT
        )

    async def spend(self, spends: Sequence[Spend]) -> Sequence[SpendResult]:
        """Make all spends in one transaction, and commit it; see `counters`."""
        return await self._calls.submit(spends, len(spends))

    def spend_now(self, spends: Sequence[Spend]) -> Sequence[SpendResult] | None:
        """Spend in the event loop, if no process spends or waits; see `counters`."""
        return self._in_loop.spend(spends)

    async def check(self) -> None:
        """Raise StoreUnavailable unless counters can be spent from now."""
        self._writer.check()
        self._uncached.check(COUNTERS_CLOSED, _FIRST)

    async def close(self) -> None:
        """Finish the submitted spends, then release all resources."""
        self._in_loop.close()
        self._calls.flush()
        self._writer.close()
        await asyncio.wait((asyncio.wrap_future(self._writer.stopped),), timeout=CLOSE_TIMEOUT)
        self._uncached.close()


class LoopSpender:
    """Spends in the event loop, without waiting for a lock or for the disk.

    While another writer of any process spends, waits or runs a checkpoint, nothing is spent here.
    So a disk that stops syncing delays only the keys with limits.

    Counters stay known from one transaction to the next, as long as no other connection commits.
    """

    def __init__(self, rows: SqliteRows, lock: FairFileLock, watch: Callable[[], None]) -> None:
        """Own `rows`, which must not wait for locks, and `lock`; `watch` may raise StoreBroken."""
        self._rows = rows
        self._lock = lock
        self._watch = watch
        self._usable = True
        self._counts: dict[str, tuple[int, int]] = {}
        self._version = 0
        self._known_with: int | None = None  # the version of the file that `_counts` are of

    def spend(self, spends: Sequence[Spend]) -> Sequence[SpendResult] | None:
        """Do as `Counters.spend_now`."""
        if not self._usable or sum(len(spend.counters) for spend in spends) > COUNTERS_IN_LOOP:
            return None
        try:
            if not self._lock.take_now():
                return None
        except StoreUnusable:
            return None
        try:
            return self._commit(self._spend(spends))
        finally:
            self._lock.release()

    def close(self) -> None:
        """Release all resources."""
        self._usable = False
        self._rows.close()
        self._lock.close()

    def _spend(self, spends: Sequence[Spend]) -> Sequence[SpendResult] | None:
        """Spend in an open transaction; None if that failed: the thread reports the failure."""
        known_with, self._known_with = self._known_with, None  # until the commit
        try:
            self._watch()
            self._rows.run("BEGIN IMMEDIATE")
            version = self._rows.version()
            if version != known_with:  # another connection has committed
                self._counts.clear()
                if self._rows.one(COUNTERS_CLOSED) != (0,):
                    return None
            if len(self._counts) > COUNTS_KNOWN:
                self._counts.clear()
            batch = CounterBatch(self._rows, self._counts)
            results = [batch.spend(spend) for spend in spends]
            batch.write()
        except StoreError:
            return None
        self._version = version
        return results

    def _commit(self, results: Sequence[SpendResult] | None) -> Sequence[SpendResult] | None:
        """Commit the open transaction, or roll it back if nothing was spent."""
        try:
            if results is not None:
                self._rows.run("COMMIT")
                self._known_with = self._version
                return results
        except StoreFull:  # not committed: the thread makes room
            pass
        except StoreError as error:
            self._usable = False  # the thread spends from now on, and finds out whether it can
            self._roll_back()
            raise StoreUnavailable(f"the counters cannot be used: {error}") from error
        self._roll_back()
        return None

    def _roll_back(self) -> None:
        try:
            if self._rows.in_transaction:
                self._rows.run("ROLLBACK")
        except StoreError:
            self._usable = False


class _CounterJob:
    """The job of the thread that spends from the counters."""

    def __init__(self, rows: SqliteRows) -> None:
        self._rows = rows

    def run(self, units: Sequence[SpendBatch]) -> tuple[Answer, Sequence[SpendBatch]]:
        """Spend for all callers that still wait."""
        if self._rows.one(COUNTERS_CLOSED) != (0,):
            raise CountersHandedOver(HANDED_OVER)
        batch = CounterBatch(self._rows)
        callers = pending(units)
        results = [[batch.spend(spend) for spend in call.question] for call in callers]
        batch.write()
        return partial(resolve, callers, results), ()

    def fail(self, units: Sequence[SpendBatch], error: StoreError) -> None:
        """Fail with StoreUnavailable."""
        fail(pending(units), spend_failure(error))
