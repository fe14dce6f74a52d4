"""Units of work on keys and projects: a group shares a commit, each has its own savepoint.

So what one raises undoes nothing of another's. A unit whose caller has been answered before it
started is skipped. The same for both engines; begin and commit are theirs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, ClassVar, Protocol

import structlog

from keyauthority.model import Revision
from keyauthority_server.store.interface import StoreError, StoreUnavailable
from keyauthority_server.store.sql.integrity import CheckedRecords
from keyauthority_server.store.sql.statements import Rows
from keyauthority_server.store.sql.transaction import SqlTransaction
from keyauthority_server.store.types import EntrySigner

Work = Callable[[SqlTransaction], Any]
Answer = Callable[[], None]

_log = structlog.get_logger(__name__)


class WrittenRows(Rows, Protocol):
    """Rows that a group of units is written in."""

    failure: StoreError | None
    """The last error that the whole transaction does not survive."""


class WriteUnit:
    """A unit of work on its way to its commit."""

    size: ClassVar[int] = 1

    def __init__(self, work: Work, *, urgent: bool = False) -> None:
        """`urgent` work may use the space that is kept in reserve."""
        self.work = work
        self.urgent = urgent
        self.outcome: Future[Any] = Future()
        self.told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done in the loop once there is an outcome, or its caller waits no more."""
        self.revisions: list[Revision] = []
        """The changes that it made, once it is committed."""


class WriteBatch:
    """The job of the thread that writes the database."""

    def __init__(
        self, rows: WrittenRows, seal: EntrySigner, note: Callable[[Revision], None]
    ) -> None:
        """Work on `rows`; `note` is told the newest revision after a commit, before any caller."""
        self._rows = rows
        self._seal = seal
        self._checked = CheckedRecords()
        self._note = note

    def run(self, units: Sequence[WriteUnit]) -> Answer:
        """Run the units whose callers still wait."""
        answers = [self._work(one) for one in units if _wanted(one)]

        def answer() -> None:
            revisions = [revision for one in units for revision in one.revisions]
            if revisions:
                self._note(max(revisions))
            for one in answers:
                one()
            _tell(units)

        return answer

    def fail(self, units: Sequence[WriteUnit], error: StoreError) -> None:
        """Tell the callers that it failed."""
        for unit in units:
            if _wanted(unit):
                unit.outcome.set_exception(error)
        _tell(units)

    def _work(self, unit: WriteUnit) -> Answer:
        """Run one unit in a savepoint; return how to answer it after the commit.

        Raises StoreError if the whole transaction is lost with it.
        """
        rows = self._rows
        unit.revisions = []
        rows.run("SAVEPOINT unit")
        try:
            transaction = SqlTransaction(rows, self._seal, self._checked)
            result = unit.work(transaction)
            transaction.finish()
            if rows.failure is None:
                rows.run("RELEASE unit")  # fails where a failed statement fails all that follow
        except BaseException as error:
            if rows.failure is not None:
                raise rows.failure from error
            rows.run("ROLLBACK TO unit")
            rows.run("RELEASE unit")
            raised = error
            return lambda: unit.outcome.set_exception(raised)
        if rows.failure is not None:  # the work has swallowed it
            raise rows.failure
        unit.revisions = transaction.revisions
        return lambda: unit.outcome.set_result(result)


def _wanted(unit: WriteUnit) -> bool:
    """True if its caller still waits; from now on he waits for the outcome."""
    outcome = unit.outcome
    return outcome.running() or (not outcome.done() and outcome.set_running_or_notify_cancel())


async def await_commit(unit: WriteUnit, seconds: float) -> Any:
    """Return what a unit that was handed in returned, once it is committed.

    Raises what it raised, and StoreUnavailable if that takes too long: it never will be committed
    if it has not begun, else nobody knows. A caller who goes away changes nothing.
    """
    timer = asyncio.get_running_loop().call_later(seconds, _end_waits, (unit,))
    try:
        await unit.told
    except asyncio.CancelledError:
        unit.outcome.add_done_callback(partial(_log_unanswered, unit))
        raise
    finally:
        timer.cancel()
    if unit.outcome.done():
        return unit.outcome.result()
    if unit.outcome.cancel():
        raise StoreUnavailable("the write did not come to its turn, and never will")
    unit.outcome.add_done_callback(partial(_log_unanswered, unit))
    raise StoreUnavailable("the write was not committed in time; it may be yet")


def _tell(units: Sequence[WriteUnit]) -> None:
    """Wake the callers of a group, once for all: each wake fights for the interpreter."""
    if units:
        try:
            units[0].told.get_loop().call_soon_threadsafe(_end_waits, units)
        except RuntimeError:  # the loop is closed: nobody waits any more
            _log.warning("unanswered", callers=len(units))


def _end_waits(units: Sequence[WriteUnit]) -> None:
    for unit in units:
        if not unit.told.done():
            unit.told.set_result(None)


def _log_unanswered(unit: WriteUnit, outcome: Future[Any]) -> None:
    """Say what became of a write whose caller has gone, or was told that nobody knows."""
    if outcome.cancelled():
        return
    error = outcome.exception()
    if error is None:
        _log.warning("write_unanswered", outcome="committed", revisions=unit.revisions)
    else:
        _log.warning("write_unanswered", outcome="failed", error=type(error).__name__)
