"""Group commit: all waiting units of work share a transaction, on one connection.

The counter row is locked first, so the writers of all servers take turns. A group is retried until
its deadline while it certainly has not been committed, on a new connection if needed. After an
unanswered COMMIT the outcome is unknown, and the group is not retried.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from keyauthority.clock import monotonic
from keyauthority.model import Revision
from keyauthority_server.store.batching.batch_worker import BatchWorker
from keyauthority_server.store.batching.write_batch import WriteBatch, WriteUnit
from keyauthority_server.store.interface import StoreError, StoreUnavailable
from keyauthority_server.store.postgres.connection import Patience, StatementFailed
from keyauthority_server.store.postgres.notifications import notify
from keyauthority_server.store.postgres.rollback_guard import FIRST_LOCK, RollbackGuard
from keyauthority_server.store.postgres.rows import PipelinedRows
from keyauthority_server.store.sql.log_head import head_of
from keyauthority_server.store.types import Entry, EntrySigner

GROUP_MAX: Final = 128  # units; bounds the wait of other servers: some 100 ms
WRITE_SECONDS: Final = 5.0  # more than a queue of writers takes, less than callers wait
RETRY_SECONDS: Final = 0.1  # between two attempts of a group
PATIENCE: Final = Patience(statement=WRITE_SECONDS + 3, server=0, lock=WRITE_SECONDS - 1, idle=3)

Publish = Callable[[Revision, Sequence[Entry]], None]
"""Takes the head of the log before a group, and the changes of the group."""

_log = structlog.get_logger(__name__)


class Writer(BatchWorker[WriteUnit]):
    """The thread that writes the database."""

    def __init__(
        self, rows: PipelinedRows, sign: EntrySigner, guard: RollbackGuard, publish: Publish
    ) -> None:
        """Own `rows`; `publish` gets the changes of each group before its callers are answered."""
        self._rows = rows
        self._guard = guard
        self._publish = publish
        self._head = Revision(0)  # before the group
        self._rest: Sequence[WriteUnit] = ()
        self._batch = WriteBatch(rows, sign, self._note)
        self._pause = threading.Event()
        super().__init__(name="store-writer", most=GROUP_MAX)

    def serve(self, units: list[WriteUnit]) -> Sequence[WriteUnit]:
        """Commit a group, and answer its callers; return the units that it left."""
        end = monotonic() + WRITE_SECONDS
        self._rows.at_once = False
        self._rest = ()
        while not self._served(units, last=monotonic() > end):
            self._pause.wait(RETRY_SECONDS)
        return self._rest

    def fail(self, units: list[WriteUnit], error: Exception) -> None:
        """Fail the callers, and close the connection, whose state is unknown."""
        self._rows.drop()
        self._batch.fail(units, StoreUnavailable("the writer failed"))

    def end(self) -> None:
        """Close the connection."""
        self._rows.drop()

    def _served(self, units: Sequence[WriteUnit], *, last: bool) -> bool:
        """Try to commit a group; False if nothing was committed and it should be retried."""
        try:
            row = self._rows.begin(FIRST_LOCK)
            if row is None:
                raise StoreUnavailable("the counter row is missing")
            head = head_of(row)
            self._head = Revision(head.revision)
            self._guard.check_writable(self._rows, self._head)
            answer, rest = self._batch.run(units, head)
            self._rows.flush()
        except StoreError as error:
            self._rows.roll_back()
            if isinstance(error, StatementFailed) and not self._rows.at_once:
                self._rows.at_once = True
                return False
            if isinstance(error, StoreUnavailable) and not last:
                return False
            return self._failed(units, error)
        try:
            self._rows.commit()
        except StoreError as error:
            self._rows.roll_back()
            return self._failed(units, error)
        answer()
        self._rest = rest
        if any(unit.entries for unit in units):
            notify(self._rows)
        return True

    def _note(self, entries: Sequence[Entry]) -> None:
        self._guard.committed(entries[-1].revision)
        self._publish(self._head, entries)

    def _failed(self, units: Sequence[WriteUnit], error: StoreError) -> bool:
        _log.error("store_write_failed", error=str(error))
        self._batch.fail(units, error)
        return True
