"""A row that this process commits several times a second: what shows it is as fresh as its commit.

A read alone proves nothing. An old primary that was cut off answers as ever, and its head never
moves; but a synchronous commit hangs there. So a read looks for the row too, in a state that is not
newer than what it reads, whichever connection it is made on: if a beat is there that was committed,
all that was acknowledged before this beat began is there too.

The row is this process's own. It waits for no lock, the counter row's neither, and costs the
database one commit, which is made together with others.
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
PAUSE_SECONDS: Final = 0.05  # at least, between two beats
NEVER: Final = float("-inf")
_PATIENCE: Final = Patience(statement=BEAT_PATIENCE, server=0, lock=1, idle=3)
_REMEMBERED: Final = 1_000  # beats: a read shows one that is older by some milliseconds
MICROSECONDS: Final = 1_000_000  # in a second
_END_SECONDS: Final = 5.0

_BEAT: Final = (
    "INSERT INTO heartbeat (server, beat, time) VALUES"
    " (?, ?, CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT))"
    " ON CONFLICT (server) DO UPDATE SET beat = excluded.beat, time = excluded.time"
    " RETURNING time"
)
_CLEAN: Final = (  # of processes that have gone; one that was only stopped makes its row anew
    "DELETE FROM heartbeat WHERE time <"
    " CAST(EXTRACT(EPOCH FROM clock_timestamp() - INTERVAL '1 hour') * 1000000 AS BIGINT)"
)
_TIME: Final = "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)"
_SEEN: Final = "SELECT beat FROM heartbeat WHERE server = ?"

_log = structlog.get_logger(__name__)


class Heartbeat:
    """Commits beats in a thread of its own, and knows what each of them proves."""

    def __init__(self, to: Mapping[str, Any], witness: RollbackGuard) -> None:
        self._rows = PostgresRows(to, _PATIENCE, self._admitted)
        self._admit = witness.admit
        self._server = secrets.token_hex(16)
        self._number = 0
        self._goes_on = False
        self._proofs: dict[int, float] = {}
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self.reference = Reference()
        self.proven_at = NEVER
        """By `clock.monotonic`: when the newest beat that was committed began."""

    @property
    def begun(self) -> bool:
        """True if it beats: until then a read is believed."""
        return self._thread is not None

    def begin(self, seconds: float) -> None:
        """Beat once, if that can be, and from now on each `seconds`."""
        failing = not self._tried(failing=False)
        self._thread = threading.Thread(
            target=self._run, args=(seconds, failing), name="store-heartbeat", daemon=True
        )
        self._thread.start()

    def end(self) -> None:
        """Beat no more, and let go of the connection."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(_END_SECONDS)

    def seen(self, rows: PostgresRows) -> float:
        """Return what a look at the row proves of all that is read on the connection after it.

        Raises ConnectionLost where a beat that was committed is not: the connection leads to a
        database that was replaced, and a new one may lead to that which took its place.
        """
        committed = self.proven_at
        row = rows.one(_SEEN, (self._server,))
        proven = NEVER if row is None else self._proofs.get(row[0], NEVER)
        if proven < committed:
            rows.drop()
            raise ConnectionLost("the database has not what was committed: it was replaced")
        return proven

    def beat(self) -> None:
        """Commit a beat; StoreError if it was not, or nobody knows."""
        self._rows.ready()
        clean = not self._goes_on
        self._number += 1
        number, started = self._number, monotonic()
        # It may be seen before this process is told of its commit: it then proves the one before,
        # if that was committed on the same connection, and so in the same database.
        self._proofs[number] = self._proofs[number - 1] if self._goes_on else NEVER
        self._proofs.pop(number - _REMEMBERED, None)
        try:
            self._rows.begin()
            if clean:
                self._rows.run(_CLEAN)
            asked = monotonic()
            (time,) = self._rows.one(_BEAT, (self._server, number))
            self.reference.read(time / MICROSECONDS, asked)
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
        """Beat; False if that failed, which is logged once in a row."""
        try:
            self.beat()
        except StoreError as error:
            if not failing:
                _log.warning("heartbeat_failed", error=str(error))
        except Exception as error:  # noqa: BLE001  # the thread must outlive what nobody foresaw
            _log.critical("heartbeat_failed", error=f"{type(error).__name__}: {error}")
            self._rows.drop()
        else:
            return True
        return False


def read_clock(rows: PostgresRows, reference: Reference) -> None:
    """Read the database's clock once; raises StoreError."""
    with rows.reading():
        asked = monotonic()
        reference.read(rows.one(_TIME)[0] / MICROSECONDS, asked)
