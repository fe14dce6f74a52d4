"""The counters of limits in a SQLite file of their own, beside the database.

Its commits wait for no disk (`synchronous=NORMAL`): what they have written is safe from the death
of the process, not of the machine. They are made in one thread, for all callers that wait.
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
    Coalescer,
    Turn,
    tell,
    tell_failure,
    waiting,
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

DRAW_TIMEOUT: Final = 2.0  # seconds: many times what a queue of draws takes
CLOSE_TIMEOUT: Final = 10.0  # seconds: what was handed in is answered by then, one way or the other


def counters_path(database: Path) -> Path:
    """Return where the counters of a database are."""
    return database.with_name(f"{database.stem}-counters{database.suffix}")


def open_counters(database: Path, *, checkpoints: bool = True) -> SqliteCounters:
    """Open the counters beside a database, which `migrate` has made.

    Exactly one of the processes that have them open should run `checkpoints`. Raises StoreRefused,
    with one line that says why, and StoreUnavailable.
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
                rows, lock, _Draws(rows), watch, name="counters", checkpoints=checkpoints
            )
        except OSError as error:
            raise StoreUnusable(explain(error, f"{path} cannot be opened")) from error
        except sqlite3.DatabaseError as error:
            raise refused_or_failed(error, path) from error
        opened.pop_all()
        return SqliteCounters(writer)


Drawing = Turn[Sequence[Spend], Sequence[Drawn]]


class SqliteCounters:
    """`counters.Counters` on SQLite. Make it with `open_counters`; use it from one event loop."""

    def __init__(self, writer: Writer[Drawing]) -> None:
        self._writer = writer
        self._turns: Coalescer[Sequence[Spend], Sequence[Drawn]] = Coalescer(
            writer, seconds=DRAW_TIMEOUT, late=NOT_DRAWN
        )

    async def draw(self, draws: Sequence[Spend]) -> Sequence[Drawn]:
        """Make all draws in one transaction, and commit it; see `counters`."""
        return await self._turns.ask(draws, len(draws))

    async def close(self) -> None:
        """Finish what was handed in, then let go of everything."""
        self._turns.hand_in()
        self._writer.close()
        await asyncio.wait((asyncio.wrap_future(self._writer.stopped),), timeout=CLOSE_TIMEOUT)


class _Draws:
    """The job of the thread that draws."""

    def __init__(self, rows: SqliteRows) -> None:
        self._rows = rows

    def run(self, units: Sequence[Drawing]) -> Answer:
        """Draw for all callers who still wait."""
        if self._rows.one(COUNTERS_CLOSED) != (0,):
            raise StoreUnavailable(HANDED_OVER)
        tally = CounterBatch(self._rows)
        callers = waiting(units)
        drawn = [[tally.draw(draw) for draw in one.question] for one in callers]
        tally.write()
        return partial(tell, callers, drawn)

    def fail(self, units: Sequence[Drawing], error: StoreError) -> None:
        """Tell the callers that nobody can tell. A full disk too: a verdict must not hang on it."""
        tell_failure(waiting(units), StoreUnavailable(f"the counters cannot be drawn: {error}"))
