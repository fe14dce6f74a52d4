"""Single records, looked up for all callers who wait: one statement for the whole group.

Each answer is from the one state that the statement has seen, which is newer than the questions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import structlog

from keyauthority.model import Project, Revision
from keyauthority_server.store.batching.coalescer import Turn, tell, tell_failure, waiting
from keyauthority_server.store.interface import StoreDamaged, StoreError, StoreUnavailable
from keyauthority_server.store.postgres.connection import ConnectionLost, Patience
from keyauthority_server.store.postgres.heartbeat import NEVER, Heartbeat
from keyauthority_server.store.postgres.rollback_guard import RollbackGuard
from keyauthority_server.store.postgres.rows import PostgresRows
from keyauthority_server.store.sql.integrity import stored_project
from keyauthority_server.store.sql.record_decoder import decode_pair
from keyauthority_server.store.sql.row_codec import Row
from keyauthority_server.store.sql.statements import GET_PROJECT, LOOK_MANY
from keyauthority_server.store.types import Snapshots, StoredKey

ASKED: Final = (
    "WITH asked (place, value) AS"
    " (SELECT place, value FROM unnest(?::text[]) WITH ORDINALITY AS given (value, place)) "
)
_LOOK_MANY: Final = ASKED + LOOK_MANY

GROUP_MAX: Final = 1_000  # names: some 10 ms
LOOK_SECONDS: Final = 2.0  # many times what a queue of looks takes
TRIES: Final = 2  # the second on a new connection
PATIENCE: Final = Patience(statement=LOOK_SECONDS, server=LOOK_SECONDS, lock=LOOK_SECONDS, idle=10)

_log = structlog.get_logger(__name__)


Pair = tuple[StoredKey | None, Project | None]
_NOTHING: Final[Pair] = (None, None)


class ReadRequest(NamedTuple):
    """What one caller looks for."""

    access_keys: tuple[str | None, ...]
    operator: str | None
    project_id: str | None = None
    """Looked for instead of keys."""
    proven: bool = False
    """Tell as well how fresh the answer is."""


class ReadResult(NamedTuple):
    """What he gets."""

    snapshots: Snapshots
    project: Project | None = None
    as_of: float = NEVER
    """See `values.Proven`."""


class Reader:
    """The job of the thread that looks."""

    def __init__(self, rows: PostgresRows, witness: RollbackGuard, heartbeat: Heartbeat) -> None:
        """Take over `rows`."""
        self._rows = rows
        self._witness = witness
        self._heartbeat = heartbeat

    def serve(self, turns: list[Turn[ReadRequest, ReadResult]]) -> None:
        """Look, and answer all callers who still wait; on a new connection if one was lost."""
        callers = waiting(turns)
        if not callers:
            return
        questions = [one.question for one in callers]
        for again in range(1, TRIES + 1):
            try:
                answers = self._answers(questions)
            except StoreError as error:
                if isinstance(error, ConnectionLost) and again < TRIES:
                    continue
                _log.error("store_look_failed", error=str(error))
                tell_failure(callers, StoreUnavailable(str(error)))
            except Exception as error:  # noqa: BLE001  # the thread must outlive it
                _log.critical("store_reader_failed", error=f"{type(error).__name__}: {error}")
                self._rows.drop()
                tell_failure(callers, StoreUnavailable("the reader failed"))
            else:
                tell(callers, answers)
            return

    def end(self) -> None:
        """Let go of the connection."""
        self._rows.drop()

    def _answers(self, questions: Sequence[ReadRequest]) -> list[ReadResult | Exception]:
        with self._rows.reading():
            return self._read(questions)

    def _read(self, questions: Sequence[ReadRequest]) -> list[ReadResult | Exception]:
        newest = self._witness.newest
        proven = any(one.proven for one in questions)
        as_of = self._heartbeat.seen(self._rows) if proven else NEVER
        names = dict.fromkeys(
            name
            for one in questions
            for name in (*one.access_keys, one.operator)
            if _may_be_kept(name)
        )
        rows = list(self._rows.each(_LOOK_MANY, ([*names, None],)))
        if not rows:
            raise StoreUnavailable("the counter row is missing")
        self._witness.check(self._rows, Revision(rows[0][0]), newest)
        head = Revision(rows[0][0])
        pairs = {name: self._pair(row) for name, row in zip(names, rows, strict=False)}
        return [self._answer_or_damage(one, head, pairs, as_of) for one in questions]

    def _pair(self, row: Row) -> Pair | StoreDamaged:
        try:
            return decode_pair(row)
        except StoreDamaged as damage:
            return damage

    def _answer_or_damage(
        self,
        question: ReadRequest,
        head: Revision,
        pairs: Mapping[str | None, Pair | StoreDamaged],
        as_of: float,
    ) -> ReadResult | StoreDamaged:
        """Return the answer; a damaged record is the business of those only who ask for it."""
        names = (*question.access_keys, question.operator)
        found = [pairs.get(name, _NOTHING) for name in names]
        whole = [pair for pair in found if not isinstance(pair, StoreDamaged)]
        if len(whole) < len(found):
            return next(pair for pair in found if isinstance(pair, StoreDamaged))
        operator, _ = whole.pop()
        project = None
        if _may_be_kept(question.project_id):
            row = self._rows.one(GET_PROJECT, (question.project_id,))
            try:
                project = None if row is None else stored_project(row)
            except StoreDamaged as damage:
                return damage
        return ReadResult(Snapshots(head, whole, operator), project, as_of)


def _may_be_kept(name: str | None) -> bool:
    """Return False for what PostgreSQL's texts cannot hold; nothing is kept under such a name."""
    return name is not None and name.isascii() and "\0" not in name
