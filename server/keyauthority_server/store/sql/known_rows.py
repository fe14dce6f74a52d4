"""Rows that the units of a group share: each is read once, while no other writer can change it.

A group holds the lock of all writers, so its rows change only by its own statements. The rows stay
known for the next group if the engine proves that no other connection has committed meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from keyauthority.model import Revision
from keyauthority_server.store.rows import Row, Rows
from keyauthority_server.store.sql.integrity import CheckedRecords
from keyauthority_server.store.sql.log_head import newest_time, read_head, signed_time
from keyauthority_server.store.sql.queries import digests
from keyauthority_server.store.sql.statements import (
    ADVANCE_LOG,
    GET_KEY,
    GET_KEYS,
    GET_PROJECT,
    GET_PROJECTS,
    RECORD_AT,
)
from keyauthority_server.store.types import EntrySigner, LogHead, Reads

RECORDS_MAX: Final = 1_024  # of a group and the next ones: those that are being changed


class KnownRows:
    """The counter row, records and check values of one transaction. Not thread-safe."""

    def __init__(self) -> None:
        self.checked = CheckedRecords()
        self.records: dict[tuple[str, str], Row | None] = {}
        """Current rows by statement and name; whoever writes a row removes it."""
        self.newest_time: datetime | None = None
        self._head: LogHead | None = None
        self._locked_head: LogHead | None = None
        self._key_checks: Mapping[str, bytes] | None = None
        self._unsaved = False

    def head(self, rows: Rows, sign: EntrySigner) -> LogHead:
        """Return the head of the log, including the units that have finished."""
        if self._head is None:
            head = self._locked_head or read_head(rows)
            self.newest_time = newest_time(rows, head, sign)
            self._head = head
        return self._head

    def begin(self, locked_head: LogHead | None) -> None:
        """Begin a transaction, which may have read the head of the log as it took its lock."""
        self._locked_head = locked_head
        if len(self.records) > RECORDS_MAX:
            self.records.clear()

    def read_ahead(self, rows: Rows, reads: Sequence[Reads]) -> None:
        """Read the records that units are going to read, with one statement for each table."""
        keys = {name for read in reads for name in read.keys}
        projects = {name for read in reads for name in read.projects}
        for names, get, get_all, name_at in (
            (keys, GET_KEY, GET_KEYS, RECORD_AT),
            (projects, GET_PROJECT, GET_PROJECTS, 0),
        ):
            if names := {name for name in names if name.isascii() and "\0" not in name}:
                requested = rows.values_table(sorted(names))
                for row in rows.each(requested.table + get_all, (requested.value,)):
                    names.discard(row[name_at])
                    self.records[get, row[name_at]] = row
                self.records.update(((get, name), None) for name in names)  # those are absent

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

    def save(self, rows: Rows, sign: EntrySigner) -> None:
        """Write the head of the log if it has moved; call it before the commit."""
        if self._unsaved and self._head is not None and self.newest_time is not None:
            signed = signed_time(self.newest_time, sign)
            rows.run(ADVANCE_LOG, (self._head.revision, self._head.hash, *signed))
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
