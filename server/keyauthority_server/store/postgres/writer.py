"""Writes: all units that wait are committed together, on one connection.

The counter row is locked first, so writers come one after the other over all servers. A group of
which nothing can be committed is tried anew, on a new connection if need be, until its time is
over. After a COMMIT that was not answered nobody knows, and nothing is tried anew.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Final

import structlog

from keyauthority.clock import monotonic
from keyauthority.model import Revision
from keyauthority_server.store.batching.write_batch import WriteBatch, WriteUnit
from keyauthority_server.store.interface import StoreError, StoreUnavailable
from keyauthority_server.store.postgres.connection import Patience
from keyauthority_server.store.postgres.notifications import tell
from keyauthority_server.store.postgres.rollback_guard import FIRST_LOCK, RollbackGuard
from keyauthority_server.store.postgres.rows import PostgresRows
from keyauthority_server.store.types import EntrySigner

GROUP_MAX: Final = 128  # units; bounds how long other servers wait: some 100 ms
WRITE_SECONDS: Final = 5.0  # more than a queue of writers takes, less than callers wait
RETRY_SECONDS: Final = 0.1  # between two tries of a group
PATIENCE: Final = Patience(statement=WRITE_SECONDS + 3, server=0, lock=WRITE_SECONDS - 1, idle=3)
_log = structlog.get_logger(__name__)


class WriteJob:
    """The job of the thread that writes the database."""

    def __init__(self, rows: PostgresRows, seal: EntrySigner, witness: RollbackGuard) -> None:
        """Take over `rows`."""
        self._rows = rows
        self._witness = witness
        self._units = WriteBatch(rows, seal, witness.committed)
        self._pause = threading.Event()

    def serve(self, units: list[WriteUnit]) -> None:
        """Commit a group, and tell its callers."""
        end = monotonic() + WRITE_SECONDS
        try:
            while not self._served(units, last=monotonic() > end):
                self._pause.wait(RETRY_SECONDS)
        except Exception as error:  # noqa: BLE001  # the thread must outlive what nobody foresaw
            _log.critical("store_writer_failed", error=f"{type(error).__name__}: {error}")
            self._rows.drop()
            self._units.fail(units, StoreUnavailable("the writer failed"))

    def end(self) -> None:
        """Let go of the connection."""
        self._rows.drop()

    def _served(self, units: Sequence[WriteUnit], *, last: bool) -> bool:
        """Try to commit a group; False if nothing was done and it is to be tried again."""
        try:
            row = self._rows.begin(FIRST_LOCK)
            if row is None:
                raise StoreUnavailable("the counter row is missing")
            self._witness.check_writable(self._rows, Revision(row[0]))
            answer = self._units.run(units)
        except StoreError as error:
            self._rows.roll_back()
            if isinstance(error, StoreUnavailable) and not last:
                return False
            return self._failed(units, error)
        try:
            self._rows.commit()
        except StoreError as error:
            self._rows.roll_back()
            return self._failed(units, error)
        answer()
        if any(unit.revisions for unit in units):
            tell(self._rows)
        return True

    def _failed(self, units: Sequence[WriteUnit], error: StoreError) -> bool:
        _log.error("store_write_failed", error=str(error))
        self._units.fail(units, error)
        return True
