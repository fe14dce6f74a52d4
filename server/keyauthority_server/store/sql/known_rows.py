"""Rows that the units of a group share: each is read once, while no other writer can change it.

A group holds the lock of all writers, so its rows change only by its own statements. The rows stay
known for the next group if the engine proves that no other connection has committed meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from keyauthority.model import Revision
from keyauthority_server.store.rows import Row, Rows
from keyauthority_server.store.sql.integrity import CheckedRecords
from keyauthority_server.store.sql.log_head import newest_time, read_head, sealed_time
from keyauthority_server.store.sql.queries import digests
from keyauthority_server.store.sql.statements import ADVANCE_LOG
from keyauthority_server.store.types import EntrySigner, LogHead

RECORDS_MAX: Final = 1_024  # of a group and the next ones: those that are being changed


class KnownRows:
    """The counter row, records and check values of one transaction. Not thread-safe."""

    def __init__(self) -> None:
        self.checked = CheckedRecords()
        self.records: dict[tuple[str, str], Row | None] = {}
        """Current rows by statement and name; whoever writes a row removes it."""
        self.newest_time: datetime | None = None
        self._head: LogHead | None = None
        self._key_checks: Mapping[str, bytes] | None = None
        self._unsaved = False

    def head(self, rows: Rows, seal: EntrySigner) -> LogHead:
        """Return the head of the log, including the units that have finished."""
        if self._head is None:
            head = read_head(rows)
            self.newest_time = newest_time(rows, head, seal)
            self._head = head
        return self._head

    def key_checks(self, rows: Rows) -> Mapping[str, bytes]:
        """Return the check values that identify key files, by name."""
        if self._key_checks is None:
            self._key_checks = digests.key_checks(rows)
        return self._key_checks

    def advance(self, revision: Revision, hash_: bytes, time: datetime) -> None:
        """Move the head of the log; `save` writes it."""
        if self._head is not None:
            self._head = self._head._replace(revision=revision, hash=hash_)
        self.newest_time = time
        self._unsaved = True

    def save(self, rows: Rows, seal: EntrySigner) -> None:
        """Write the head of the log if it has moved; call it before the commit."""
        if self._unsaved and self._head is not None and self.newest_time is not None:
            sealed = sealed_time(self.newest_time, seal)
            rows.run(ADVANCE_LOG, (self._head.revision, self._head.hash, *sealed))
            self._unsaved = False

    def forget_records(self) -> None:
        """Forget all except the head: a unit has been undone, or has written rows in bulk."""
        self.records.clear()
        self._key_checks = None

    def forget_key_checks(self) -> None:
        """Forget the check values, which were written."""
        self._key_checks = None

    def forget(self) -> None:
        """Forget all: the transaction was undone, or another connection has committed."""
        self.forget_records()
        self._head = None
        self._unsaved = False

    def bound(self) -> None:
        """Forget the records if there are too many; call it between groups."""
        if len(self.records) > RECORDS_MAX:
            self.records.clear()
