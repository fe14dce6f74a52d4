"""Units of work on keys and projects: a group shares a commit, each unit has its own savepoint.

So what one raises undoes nothing of another's. A unit whose caller has been answered before it
started is skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, ClassVar

from keyauthority.model import Revision
from keyauthority_server.store.base import StoreError
from keyauthority_server.store.sqlite_connection import SqliteRows
from keyauthority_server.store.sqlite_writer import Answer
from keyauthority_server.store.transaction import SqlTransaction
from keyauthority_server.store.values import Sealer

Work = Callable[[SqlTransaction], Any]


class Unit:
    """A unit of work on its way to its commit."""

    size: ClassVar[int] = 1

    def __init__(self, work: Work) -> None:
        self.work = work
        self.outcome: Future[Any] = Future()
        self.revisions: list[Revision] = []
        """The changes that it made, once it is committed."""


class Units:
    """The job of the thread that writes the database."""

    def __init__(self, rows: SqliteRows, seal: Sealer) -> None:
        self._rows = rows
        self._seal = seal

    def run(self, units: Sequence[Unit]) -> Answer:
        """Run the units whose callers still wait."""
        answers = [self._work(one) for one in units if one.outcome.set_running_or_notify_cancel()]

        def answer() -> None:
            for one in answers:
                one()

        return answer

    def fail(self, units: Sequence[Unit], error: StoreError) -> None:
        """Tell the callers that it failed."""
        for unit in units:
            if unit.outcome.running() or (
                not unit.outcome.done() and unit.outcome.set_running_or_notify_cancel()
            ):
                unit.outcome.set_exception(error)

    def _work(self, unit: Unit) -> Answer:
        """Run one unit in a savepoint; return how to answer it after the commit.

        Raises StoreError if the whole transaction is lost with it.
        """
        rows = self._rows
        rows.run("SAVEPOINT unit")
        try:
            transaction = SqlTransaction(rows, self._seal)
            result = unit.work(transaction)
            transaction.finish()
        except BaseException as error:
            if rows.failure is not None:
                raise rows.failure from error
            rows.run("ROLLBACK TO unit")
            rows.run("RELEASE unit")
            raised = error
            return lambda: unit.outcome.set_exception(raised)
        if rows.failure is not None:  # the work has swallowed it
            raise rows.failure
        rows.run("RELEASE unit")
        unit.revisions = transaction.revisions
        return lambda: unit.outcome.set_result(result)
