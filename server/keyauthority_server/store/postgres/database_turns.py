"""Turns for a PostgreSQL that shares the cores of a saturated event loop.

A loop that never sleeps leaves the database the share of the core that the scheduler of the system
gives it, in turns that may be 40 ms apart, and a change needs several of them. If Linux groups the
processes of a session (`kernel.sched_autogroup_enabled`), they may be half a second apart. So while
a statement of a change or of a read waits for longer than it takes otherwise, the loop sleeps now
and then.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final, Protocol

from keyauthority.clock import monotonic

LATE_SECONDS: Final = 0.003  # most statements take some 0.3 ms
LOOK_SECONDS: Final = 0.004  # before the first turn
TURN_SECONDS: Final = 0.0003  # of the first; at most 7 % of the loop's time
# Each turn of the same statement comes after this many times the time, and is as much longer: the
# threads of this process use up a short one.
GROWTH: Final = 4
LONGEST: Final = GROWTH**2


class WaitingRows(Protocol):
    """The rows of a thread."""

    waiting_since: float | None
    """By `clock.monotonic`: when the statement was sent that is not answered yet."""
    is_local: bool
    """True if the database is on this machine."""


class DatabaseTurns:
    """A context in which a call waits for the database. Use it from one event loop."""

    def __init__(self, *rows: WaitingRows) -> None:
        """Look after the statements of these rows."""
        self._rows = rows
        self._calls = 0
        self._timer: asyncio.TimerHandle | None = None
        self._late_since: float | None = None  # of the statement that had the last turn
        self._length = 1  # of the next turn

    def __enter__(self) -> None:
        """Look after the statements, as long as calls wait for them."""
        self._calls += 1
        if self._timer is None:
            self._look_later()

    def __exit__(self, *_: object) -> None:
        """Leave off, unless other calls wait."""
        self._calls -= 1

    def _look_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS * self._length, self._look)

    def _look(self) -> None:
        self._timer = None
        if not self._calls:
            return
        since = self._oldest()
        if since != self._late_since:
            self._late_since, self._length = since, 1
        if since is not None and monotonic() - since > LATE_SECONDS and self._is_local():
            end = monotonic() + TURN_SECONDS * self._length
            while self._oldest() == since and monotonic() < end:
                time.sleep(TURN_SECONDS)
            self._length = min(GROWTH * self._length, LONGEST)
        self._look_later()

    def _oldest(self) -> float | None:
        """Return when the oldest statement was sent that is not answered yet."""
        sent = [rows.waiting_since for rows in self._rows]  # which other threads change meanwhile
        return min((since for since in sent if since is not None), default=None)

    def _is_local(self) -> bool:
        return any(rows.is_local for rows in self._rows)
