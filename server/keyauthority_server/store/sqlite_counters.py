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
from typing import Final, NamedTuple

import structlog

from keyauthority_server.store.base import StoreError, StoreRefused, StoreUnavailable
from keyauthority_server.store.counters import Draw, Drawn, Tally
from keyauthority_server.store.locks import WriteLock
from keyauthority_server.store.sqlite_connection import (
    WRITE_BUSY_MS,
    FileIdentity,
    SqliteRows,
    connect,
    sqlite3,
)
from keyauthority_server.store.sqlite_schema import COUNTERS, check_schema
from keyauthority_server.store.sqlite_writer import Answer, Writer

DRAW_TIMEOUT: Final = 2.0  # seconds: many times what a queue of draws takes
CLOSE_TIMEOUT: Final = 10.0  # seconds: what was handed in is answered by then, one way or the other

_log = structlog.get_logger(__name__)


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
        raise StoreRefused(f"there are no counters at {path}")
    with ExitStack() as opened:
        try:
            connection = connect(path, WRITE_BUSY_MS, durable=False)
            opened.callback(connection.close)
            check_schema(connection, path, COUNTERS)
            rows = SqliteRows(connection)
            lock = WriteLock(path)
            opened.callback(lock.close)
            watch = FileIdentity(path).check
            writer = Writer(
                rows, lock, _Drawing(rows), watch, name="counters", checkpoints=checkpoints
            )
        except (sqlite3.Error, OSError) as error:
            raise StoreRefused(f"{path} cannot be opened: {error}") from error
        opened.pop_all()
        return SqliteCounters(writer)


class SqliteCounters:
    """`counters.Counters` on SQLite. Make it with `open_counters`; use it from one event loop.

    What is drawn in one turn of the loop is handed in at its end, all at once: a thread that is
    woken in between would fight with the loop for the interpreter.
    """

    def __init__(self, writer: Writer[_Turn]) -> None:
        self._writer = writer
        self._turn: list[_Draws] = []

    async def draw(self, draws: Sequence[Draw]) -> Sequence[Drawn]:
        """Make all draws in one transaction, and commit it; see `counters`."""
        loop = asyncio.get_running_loop()
        unit = _Draws(draws, loop.create_future())
        if not self._turn:
            loop.call_soon(self._hand_in)
        self._turn.append(unit)
        timer = loop.call_later(DRAW_TIMEOUT, _late, unit)
        try:
            return await unit.outcome
        finally:
            timer.cancel()

    async def close(self) -> None:
        """Finish what was handed in, then let go of everything."""
        self._hand_in()
        self._writer.close()
        await asyncio.wait((asyncio.wrap_future(self._writer.stopped),), timeout=CLOSE_TIMEOUT)

    def _hand_in(self) -> None:
        turn, self._turn = self._turn, []
        if not turn:
            return
        try:
            self._writer.submit(_Turn(turn))
        except StoreUnavailable as error:
            _refuse(turn, error)


class _Draws(NamedTuple):
    """The draws of one caller on their way to their commit."""

    draws: Sequence[Draw]
    outcome: asyncio.Future[Sequence[Drawn]]


class _Turn:
    """The draws of one turn of the event loop."""

    def __init__(self, callers: Sequence[_Draws]) -> None:
        self.callers = callers
        self.size = sum(len(one.draws) for one in callers)


class _Drawing:
    """The job of the thread that draws. It tells the event loop once for a whole group."""

    def __init__(self, rows: SqliteRows) -> None:
        self._rows = rows

    def run(self, units: Sequence[_Turn]) -> Answer:
        """Draw for all callers who still wait."""
        tally = Tally(self._rows)
        callers = [one for unit in units for one in unit.callers if not one.outcome.done()]
        results = [(one.outcome, [tally.draw(draw) for draw in one.draws]) for one in callers]
        tally.write()
        return partial(_in_loop, callers, partial(_answer, results))

    def fail(self, units: Sequence[_Turn], error: StoreError) -> None:
        """Tell the callers that nobody can tell. A full disk too: a verdict must not hang on it."""
        callers = [one for unit in units for one in unit.callers]
        unavailable = StoreUnavailable(f"the counters cannot be drawn: {error}")
        _in_loop(callers, partial(_refuse, callers, unavailable))


def _in_loop(callers: Sequence[_Draws], answer: Answer) -> None:
    if not callers:
        return
    try:
        callers[0].outcome.get_loop().call_soon_threadsafe(answer)
    except RuntimeError:  # the loop is closed: nobody waits for an answer any more
        _log.warning("draws_unanswered", callers=len(callers))


def _answer(results: Sequence[tuple[asyncio.Future[Sequence[Drawn]], Sequence[Drawn]]]) -> None:
    for outcome, drawn in results:
        if not outcome.done():
            outcome.set_result(drawn)


def _refuse(callers: Sequence[_Draws], error: StoreUnavailable) -> None:
    for one in callers:
        if not one.outcome.done():
            one.outcome.set_exception(error)


def _late(caller: _Draws) -> None:
    """Answer a draw that was not made in time; if it has not begun it never will be."""
    _refuse((caller,), StoreUnavailable("the counters were not drawn in time"))
