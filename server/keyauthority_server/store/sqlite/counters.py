"""Counters of limits, in a SQLite file of their own next to the database.

Commits do not wait for the disk (`synchronous=NORMAL`): they survive the death of the process, not
a loss of power. One thread commits for all waiting callers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
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
    NOT_DRAWN,
    CounterBatch,
    Drawn,
    Spend,
)
from keyauthority_server.store.interface import StoreError, StoreUnavailable, StoreUnusable
from keyauthority_server.store.sqlite.connection import (
    WRITE_BUSY_MS,
    FileIdentity,
    SqliteRows,
    connect,
    sqlite3,
)
from keyauthority_server.store.sqlite.file_lock import FairFileLock
from keyauthority_server.store.sqlite.schema import COUNTERS, check_schema, refused_or_failed
from keyauthority_server.store.sqlite.writer import Answer, Writer

DRAW_TIMEOUT: Final = 2.0  # seconds: many times the duration of a queue of draws
CLOSE_TIMEOUT: Final = 10.0  # seconds: more than every submitted draw needs to succeed or fail


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
            rows = SqliteRows(connection)
            lock = FairFileLock(path)
            opened.callback(lock.close)
            watch = FileIdentity(path).check
            writer = Writer(
                rows, lock, _CounterJob(rows), watch, name="counters", checkpoints=checkpoints
            )
        except OSError as error:
            raise StoreUnusable(explain(error, f"{path} cannot be opened")) from error
        except sqlite3.DatabaseError as error:
            raise refused_or_failed(error, path) from error
        opened.pop_all()
        return SqliteCounters(writer)


SpendBatch = CallBatch[Sequence[Spend], Sequence[Drawn]]


class SqliteCounters:
    """`counters.Counters` on SQLite. Open it with `open_counters`; use it from one event loop."""

    def __init__(self, writer: Writer[SpendBatch]) -> None:
        self._writer = writer
        self._calls: Coalescer[Sequence[Spend], Sequence[Drawn]] = Coalescer(
            writer, seconds=DRAW_TIMEOUT, late=NOT_DRAWN
        )

    async def draw(self, draws: Sequence[Spend]) -> Sequence[Drawn]:
        """Make all draws in one transaction, and commit it; see `counters`."""
        return await self._calls.submit(draws, len(draws))

    async def close(self) -> None:
        """Finish the submitted draws, then release all resources."""
        self._calls.flush()
        self._writer.close()
        await asyncio.wait((asyncio.wrap_future(self._writer.stopped),), timeout=CLOSE_TIMEOUT)


class _CounterJob:
    """The job of the thread that draws counters."""

    def __init__(self, rows: SqliteRows) -> None:
        self._rows = rows

    def run(self, units: Sequence[SpendBatch]) -> Answer:
        """Draw for all callers that still wait."""
        if self._rows.one(COUNTERS_CLOSED) != (0,):
            raise StoreUnavailable(HANDED_OVER)
        batch = CounterBatch(self._rows)
        callers = pending(units)
        drawn = [[batch.draw(spend) for spend in call.question] for call in callers]
        batch.write()
        return partial(resolve, callers, drawn)

    def fail(self, units: Sequence[SpendBatch], error: StoreError) -> None:
        """Fail with StoreUnavailable, even for a full disk: verdicts must not depend on it."""
        fail(pending(units), StoreUnavailable(f"the counters cannot be drawn: {error}"))
