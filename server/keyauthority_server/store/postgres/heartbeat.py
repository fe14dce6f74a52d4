"""Heartbeat: a row that this process commits several times a second to prove freshness.

A read alone proves nothing. An old primary that was cut off still answers, with a head that never
moves; but a synchronous commit hangs there. So each read first looks for the row, in a state that
is not newer than the records it reads, on the same connection: if the row shows a committed beat,
every change acknowledged before that beat began is visible too.

Each process has its own row. Writing it waits for no lock, not even the counter row's, and costs
the database one commit, which it groups with others.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Mapping
from typing import Any, Final

import structlog

from keyauthority.clock import Reference, monotonic
from keyauthority_server.store.interface import StoreError
from keyauthority_server.store.postgres.connection import ConnectionLost, Patience
from keyauthority_server.store.postgres.rollback_guard import RollbackGuard
from keyauthority_server.store.postgres.rows import PostgresRows

BEAT_PATIENCE: Final = 2.0  # seconds for one commit: after that another host may answer
PAUSE_SECONDS: Final = 0.05  # minimum between two beats
NEVER: Final = float("-inf")
_PATIENCE: Final = Patience(statement=BEAT_PATIENCE, server=0, lock=1, idle=3)
_REMEMBERED: Final = 1_000  # beats: a read may show one that is some milliseconds old
MICROSECONDS: Final = 1_000_000  # in a second
_END_SECONDS: Final = 5.0

_BEAT: Final = (
    "INSERT INTO heartbeat (server, beat, time) VALUES"
    " (?, ?, CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT))"
    " ON CONFLICT (server) DO UPDATE SET beat = excluded.beat, time = excluded.time"
    " RETURNING time"
)
_CLEAN: Final = (  # rows of ended processes; a suspended process inserts its row again
    "DELETE FROM heartbeat WHERE time <"
    " CAST(EXTRACT(EPOCH FROM clock_timestamp() - INTERVAL '1 hour') * 1000000 AS BIGINT)"
)
_TIME: Final = "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)"
_SEEN: Final = "SELECT beat FROM heartbeat WHERE server = ?"

_log = structlog.get_logger(__name__)


class Heartbeat:
    """Commits beats in a thread of its own, and records the start time of each."""

    def __init__(self, to: Mapping[str, Any], guard: RollbackGuard) -> None:
        self._rows = PostgresRows(to, _PATIENCE, self._admitted)
        self._admit = guard.admit
        self._server = secrets.token_hex(16)
        self._number = 0
        self._goes_on = False
        self._proofs: dict[int, float] = {}
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self.reference = Reference()
        self.proven_at = NEVER
        """By `clock.monotonic`: start of the newest committed beat."""

    @property
    def begun(self) -> bool:
        """True once beats have started; before that every read counts as fresh."""
        return self._thread is not None

    def begin(self, seconds: float) -> None:
        """Commit one beat, if possible, then one every `seconds`."""
        failing = not self._tried(failing=False)
        self._thread = threading.Thread(
            target=self._run, args=(seconds, failing), name="store-heartbeat", daemon=True
        )
        self._thread.start()

    def end(self) -> None:
        """Stop, and close the connection."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(_END_SECONDS)

    def seen(self, rows: PostgresRows) -> float:
        """Return the time as of which later reads on this connection are proven fresh.

        Raises ConnectionLost if a committed beat is missing: the connection leads to a replaced
        database, and a new connection may lead to its replacement.
        """
        committed = self.proven_at
        row = rows.one(_SEEN, (self._server,))
        proven = NEVER if row is None else self._proofs.get(row[0], NEVER)
        if proven < committed:
            rows.drop()
            raise ConnectionLost("a committed heartbeat is missing: the database was replaced")
        return proven

    def beat(self) -> None:
        """Commit a beat; StoreError if it failed or its outcome is unknown."""
        self._rows.ready()
        clean = not self._goes_on
        self._number += 1
        number, started = self._number, monotonic()
        # A read may see the beat before this process receives its commit. It then proves the
        # previous beat, if that was committed on the same connection and so in the same database.
        self._proofs[number] = self._proofs[number - 1] if self._goes_on else NEVER
        self._proofs.pop(number - _REMEMBERED, None)
        try:
            self._rows.begin()
            if clean:
                self._rows.run(_CLEAN)
            requested = monotonic()
            (time,) = self._rows.one(_BEAT, (self._server, number))
            self.reference.read(time / MICROSECONDS, requested)
            self._rows.commit()
        finally:
            self._rows.roll_back()
        self._proofs[number] = self.proven_at = started
        self._goes_on = True

    def _admitted(self, rows: PostgresRows) -> None:
        self._goes_on = False
        self._admit(rows)

    def _run(self, seconds: float, failing: bool) -> None:
        wait = seconds
        while not self._ended.wait(wait):
            started = monotonic()
            failing = not self._tried(failing=failing)
            wait = max(seconds - (monotonic() - started), PAUSE_SECONDS)
        self._rows.drop()

    def _tried(self, *, failing: bool) -> bool:
        """Commit a beat; False if that failed, logged once for consecutive failures."""
        try:
            self.beat()
        except StoreError as error:
            if not failing:
                _log.warning("heartbeat_failed", error=str(error))
        except Exception as error:  # noqa: BLE001  # the thread must survive unexpected errors
            _log.critical("heartbeat_failed", error=f"{type(error).__name__}: {error}")
            self._rows.drop()
        else:
            return True
        return False


def read_clock(rows: PostgresRows, reference: Reference) -> None:
    """Read the database's clock once; raises StoreError."""
    with rows.reading():
        requested = monotonic()
        reference.read(rows.one(_TIME)[0] / MICROSECONDS, requested)
