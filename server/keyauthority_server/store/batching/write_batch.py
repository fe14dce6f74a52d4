"""Units of work on keys and projects: a group shares a commit, each unit has its own savepoint.

So an exception in one unit undoes no other. A unit whose caller was answered before the unit
started is skipped. A group ends after `GROUP_SECONDS`: urgent units and other processes wait for
it. The same for both engines, which begin and commit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from time import thread_time
from typing import Any, ClassVar, Final, Protocol

import structlog

from keyauthority_server.store.interface import StoreError, StoreUnavailable
from keyauthority_server.store.rows import Rows
from keyauthority_server.store.sql.known_rows import KnownRows
from keyauthority_server.store.sql.transaction import SqlTransaction
from keyauthority_server.store.types import NO_READS, Entry, EntrySigner, LogHead, Reads

GROUP_SECONDS: Final = 0.05  # of processor time; a key with long lists takes up to 40 ms
READ_AHEAD: Final = 64  # units whose records are read by one statement

Work = Callable[[SqlTransaction], Any]
Answer = Callable[[], None]

_log = structlog.get_logger(__name__)


class WrittenRows(Rows, Protocol):
    """The open transaction of a group of units."""

    failure: StoreError | None
    """The last error that lost the whole transaction."""


class WriteUnit:
    """A unit of work that waits for its commit."""

    size: ClassVar[int] = 1

    def __init__(self, work: Work, *, urgent: bool = False, reads: Reads = NO_READS) -> None:
        """`urgent` work may use the disk reserve; `reads` are read for a whole group at once."""
        self.work = work
        self.reads = reads
        self.urgent = urgent
        self.outcome: Future[Any] = Future()
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done in the loop once there is an outcome, or the wait has timed out."""
        self.entries: list[Entry] = []
        """Its changes, once committed."""


class WriteBatch:
    """The job of the thread that writes the database."""

    def __init__(
        self,
        rows: WrittenRows,
        sign: EntrySigner,
        note: Callable[[Sequence[Entry]], None],
        others: Callable[[], object] = object,
    ) -> None:
        """Work on `rows`; `note` gets the changes after a commit, before the callers.

        `others` is called in each transaction, and returns another value after commits of other
        connections; without it, no row is assumed unchanged since the previous group.
        """
        self._rows = rows
        self._sign = sign
        self._note = note
        self._others = others
        self._known = KnownRows()
        self._known_with: object = None  # what `others` returned when they were committed

    def run(
        self, units: Sequence[WriteUnit], locked_head: LogHead | None = None
    ) -> tuple[Answer, Sequence[WriteUnit]]:
        """Run the units whose callers still wait; return how to answer, and those that are left.

        At least one unit is run. `locked_head` is the head of the log, if the transaction has read
        it already.
        """
        others, known_with, self._known_with = self._others(), self._known_with, None
        if others != known_with:
            self._known.forget()
        self._known.begin(locked_head)
        answers, served, end = list[Answer](), list[WriteUnit](), thread_time() + GROUP_SECONDS
        for index, unit in enumerate(units):
            if answers and thread_time() > end:
                break
            if index % READ_AHEAD == 0:
                self._read_ahead(units[index : index + READ_AHEAD])
            served.append(unit)
            if _claim(unit):
                answers.append(self._work(unit))
        self._known.save(self._rows, self._sign)

        def answer() -> None:
            self._known_with = others
            entries = [entry for unit in served for entry in unit.entries]
            if entries:
                self._note(entries)
            for set_outcome in answers:
                set_outcome()
            _wake(served)

        return answer, units[len(served) :]

    def fail(self, units: Sequence[WriteUnit], error: StoreError) -> None:
        """Fail the units whose callers still wait."""
        for unit in units:
            if _claim(unit):
                unit.outcome.set_exception(error)
        _wake(units)

    def _read_ahead(self, units: Sequence[WriteUnit]) -> None:
        if reads := [unit.reads for unit in units if unit.reads is not NO_READS]:
            self._known.read_ahead(self._rows, reads)

    def _work(self, unit: WriteUnit) -> Answer:
        """Run one unit in a savepoint; return how to answer it after the commit.

        Raises StoreError if it lost the whole transaction.
        """
        rows = self._rows
        unit.entries = []
        rows.run("SAVEPOINT unit")
        try:
            transaction = SqlTransaction(rows, self._sign, self._known)
            result = unit.work(transaction)
            transaction.finish()
            if rows.failure is None:
                rows.run("RELEASE unit")  # fails if a failed statement has aborted the transaction
        except BaseException as error:
            if rows.failure is not None:
                raise rows.failure from error
            rows.run("ROLLBACK TO unit")
            rows.run("RELEASE unit")
            self._known.forget_records()
            raised = error
            return lambda: unit.outcome.set_exception(raised)
        if rows.failure is not None:  # the work has caught and ignored it
            raise rows.failure
        transaction.publish()
        unit.entries = transaction.entries
        return lambda: unit.outcome.set_result(result)


def _claim(unit: WriteUnit) -> bool:
    """True if the caller still waits; from now on it waits for the outcome."""
    outcome = unit.outcome
    return outcome.running() or (not outcome.done() and outcome.set_running_or_notify_cancel())


async def await_commit(unit: WriteUnit, seconds: float) -> Any:
    """Return the result of a submitted unit, once it is committed.

    Raises its exception, or StoreUnavailable after `seconds`: a unit that has not started is never
    executed; the outcome of one that has started is unknown. Cancellation does not stop the unit.
    """
    timer = asyncio.get_running_loop().call_later(seconds, _end_waits, (unit,))
    try:
        await unit.done
    except asyncio.CancelledError:
        unit.outcome.add_done_callback(partial(_log_unanswered, unit))
        raise
    finally:
        timer.cancel()
    if unit.outcome.done():
        return unit.outcome.result()
    if unit.outcome.cancel():
        raise StoreUnavailable("the write timed out in the queue; it was not executed")
    unit.outcome.add_done_callback(partial(_log_unanswered, unit))
    raise StoreUnavailable("the write timed out; its outcome is unknown")


def _wake(units: Sequence[WriteUnit]) -> None:
    """Wake all callers of a group at once: each wakeup contends for the interpreter."""
    if units:
        try:
            units[0].done.get_loop().call_soon_threadsafe(_end_waits, units)
        except RuntimeError:  # the loop is closed: no caller waits
            _log.warning("unanswered", callers=len(units))


def _end_waits(units: Sequence[WriteUnit]) -> None:
    for unit in units:
        if not unit.done.done():
            unit.done.set_result(None)


def _log_unanswered(unit: WriteUnit, outcome: Future[Any]) -> None:
    """Log the outcome of a write whose caller has gone or has timed out."""
    if outcome.cancelled():
        return
    error = outcome.exception()
    if error is None:
        _log.warning(
            "write_unanswered",
            outcome="committed",
            revisions=[entry.revision for entry in unit.entries],
        )
    else:
        _log.warning("write_unanswered", outcome="failed", error=type(error).__name__)
