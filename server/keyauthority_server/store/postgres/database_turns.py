"""Turns for a PostgreSQL that shares the cores of a saturated event loop.

A loop that never sleeps leaves the database the share of the core that the scheduler of the system
gives it, in turns that may be 40 ms apart, and a change needs several of them. So while a statement
of a change waits for longer than it takes otherwise, the loop sleeps for a moment now and then.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final, Protocol

from keyauthority.clock import monotonic

LOOK_SECONDS: Final = 0.004  # between two looks, while changes wait
LATE_SECONDS: Final = 0.003  # most statements take some 0.3 ms
TURN_SECONDS: Final = 0.0003  # at most 7 % of the loop's time


class WaitingRows(Protocol):
    """The rows that changes are written to."""

    waiting_since: float | None
    """By `clock.monotonic`: when the statement that is being computed was sent."""

    @property
    def is_local(self) -> bool:
        """True if the database is on this machine."""
        ...


class DatabaseTurns:
    """A context in which a change waits for the database. Use it from one event loop."""

    def __init__(self, rows: WaitingRows) -> None:
        self._rows = rows
        self._changes = 0
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        """Look after the statements of the change."""
        self._changes += 1
        if self._timer is None:
            self._look_later()

    def __exit__(self, *_: object) -> None:
        """Leave off, unless other changes wait."""
        self._changes -= 1

    def _look_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._changes:
            since = self._rows.waiting_since
            if since is not None and monotonic() - since > LATE_SECONDS and self._rows.is_local:
                time.sleep(TURN_SECONDS)
            self._look_later()
