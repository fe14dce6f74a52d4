"""Reads of single records: one statement for all waiting callers.

All answers show the one state that the statement has read, which is newer than every request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import structlog

from keyauthority.model import Project, Revision
from keyauthority_server.store.batching.batch_worker import BatchWorker
from keyauthority_server.store.batching.coalescer import CallBatch, fail, pending, resolve
from keyauthority_server.store.interface import StoreDamaged, StoreError, StoreUnavailable
from keyauthority_server.store.postgres.connection import ConnectionLost, Patience
from keyauthority_server.store.postgres.heartbeat import NEVER, Heartbeat
from keyauthority_server.store.postgres.rollback_guard import RollbackGuard
from keyauthority_server.store.postgres.rows import REQUESTED, PostgresRows
from keyauthority_server.store.rows import Row
from keyauthority_server.store.sql.integrity import stored_project
from keyauthority_server.store.sql.record_decoder import decode_pair
from keyauthority_server.store.sql.statements import GET_PROJECT, READ_SNAPSHOTS
from keyauthority_server.store.types import Snapshots, StoredKey

_READ_SNAPSHOTS: Final = REQUESTED + READ_SNAPSHOTS

GROUP_MAX: Final = 1_000  # names: some 10 ms
READ_SECONDS: Final = 2.0  # many times the duration of a queue of reads
TRIES: Final = 2  # the second on a new connection
PATIENCE: Final = Patience(statement=READ_SECONDS, server=READ_SECONDS, lock=READ_SECONDS, idle=10)

_log = structlog.get_logger(__name__)


Pair = tuple[StoredKey | None, Project | None]
_NOTHING: Final[Pair] = (None, None)


class ReadRequest(NamedTuple):
    """The records that one caller reads."""

    access_keys: tuple[str | None, ...]
    operator: str | None
    project_id: str | None = None
    """A project to read instead of keys."""
    proven: bool = False
    """Also return the proven age of the state."""


class ReadResult(NamedTuple):
    """The records of one ReadRequest."""

    snapshots: Snapshots
    project: Project | None = None
    as_of: float = NEVER
    """See `types.DatedSnapshot`."""


class Reader(BatchWorker[CallBatch[ReadRequest, ReadResult]]):
    """The thread that reads single records."""

    def __init__(self, rows: PostgresRows, guard: RollbackGuard, heartbeat: Heartbeat) -> None:
        """Own `rows`."""
        self._rows = rows
        self._guard = guard
        self._heartbeat = heartbeat
        super().__init__(name="store-reader", most=GROUP_MAX)

    def serve(
        self, batches: list[CallBatch[ReadRequest, ReadResult]]
    ) -> Sequence[CallBatch[ReadRequest, ReadResult]]:
        """Answer all pending calls; retry once on a new connection if it was lost."""
        callers = pending(batches)
        if not callers:
            return ()
        requests = [call.question for call in callers]
        for attempt in range(1, TRIES + 1):
            try:
                answers = self._answers(requests)
            except StoreError as error:
                if isinstance(error, ConnectionLost) and attempt < TRIES:
                    continue
                _log.error("store_read_failed", error=str(error))
                fail(callers, StoreUnavailable(str(error)))
            else:
                resolve(callers, answers)
            break
        return ()

    def fail(self, units: list[CallBatch[ReadRequest, ReadResult]], error: Exception) -> None:
        """Fail the callers, and close the connection, whose state is unknown."""
        self._rows.drop()
        fail(pending(units), StoreUnavailable("the reader failed"))

    def end(self) -> None:
        """Close the connection."""
        self._rows.drop()

    def _answers(self, requests: Sequence[ReadRequest]) -> list[ReadResult | Exception]:
        with self._rows.reading():
            return self._read(requests)

    def _read(self, requests: Sequence[ReadRequest]) -> list[ReadResult | Exception]:
        newest = self._guard.newest
        proven = any(request.proven for request in requests)
        as_of = self._heartbeat.seen(self._rows) if proven else NEVER
        names = dict.fromkeys(
            name
            for request in requests
            for name in (*request.access_keys, request.operator)
            if _is_storable(name)
        )
        rows = list(self._rows.each(_READ_SNAPSHOTS, ([*names, None],)))
        if not rows:
            raise StoreUnavailable("the counter row is missing")
        self._guard.check(self._rows, Revision(rows[0][0]), newest)
        head = Revision(rows[0][0])
        pairs = {name: self._pair(row) for name, row in zip(names, rows, strict=False)}
        return [self._answer_or_damage(request, head, pairs, as_of) for request in requests]

    def _pair(self, row: Row) -> Pair | StoreDamaged:
        try:
            return decode_pair(row)
        except StoreDamaged as damage:
            return damage

    def _answer_or_damage(
        self,
        request: ReadRequest,
        head: Revision,
        pairs: Mapping[str | None, Pair | StoreDamaged],
        as_of: float,
    ) -> ReadResult | StoreDamaged:
        """Return the answer; a damaged record fails only the requests that name it."""
        names = (*request.access_keys, request.operator)
        found = [pairs.get(name, _NOTHING) for name in names]
        whole = [pair for pair in found if not isinstance(pair, StoreDamaged)]
        if len(whole) < len(found):
            return next(pair for pair in found if isinstance(pair, StoreDamaged))
        operator, _ = whole.pop()
        project = None
        if _is_storable(request.project_id):
            row = self._rows.one(GET_PROJECT, (request.project_id,))
            try:
                project = None if row is None else stored_project(row)
            except StoreDamaged as damage:
                return damage
        return ReadResult(Snapshots(head, whole, operator), project, as_of)


def _is_storable(name: str | None) -> bool:
    """Return False for names that a text in PostgreSQL cannot hold: no record has them."""
    return name is not None and name.isascii() and "\0" not in name
