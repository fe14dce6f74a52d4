"""Time, passed in: the one place that asks the system for it.

The clock of a process never runs back, and a forward jump that the monotonic clock does not
confirm makes it refuse to tell the time, since every expiry would be judged by it.
"""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

JUMP_MAX: Final = timedelta(hours=1)  # more than NTP steps by itself, less than a key's useful life
_JUMP_SECONDS: Final = JUMP_MAX.total_seconds()
_BOOT_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # the first: Linux


def monotonic() -> float:
    """Return seconds since boot, which only ever grow: for measuring spans."""
    return time.clock_gettime(_BOOT_CLOCK)


class ClockJumped(Exception):
    """The wall clock went forward by more than `JUMP_MAX` against the monotonic clock."""


class Clock(Protocol):
    """Tells the time."""

    def now(self) -> datetime:
        """Return the time in UTC, never before what it returned last.

        Raises ClockJumped while the wall clock cannot be believed.
        """
        ...

    def monotonic(self) -> float:
        """Return seconds that only ever grow, for measuring spans."""
        ...


class SystemClock:
    """The machine's clock, held to the rules above.

    It runs with the boot clock, which nobody sets and which counts a machine's sleep, and follows
    the wall clock forward. When the wall clock is set back it goes on as before. `not_before` is
    the newest time that the store has committed: it starts there at the earliest. A restart
    confirms a jump, since it takes the wall clock as it is.
    """

    def __init__(self, not_before: datetime | None = None) -> None:
        start = max(time.time(), not_before.timestamp() if not_before else 0.0)
        self._offset = start - monotonic()
        self._lock = threading.Lock()

    def now(self) -> datetime:
        """Return the time in UTC; see `Clock.now`. Any thread may ask."""
        with self._lock:
            wall = time.time()  # first: what passes until the next line must not count as ahead
            steady = monotonic()
            ahead = wall - steady - self._offset
            if ahead > 0:
                if ahead > _JUMP_SECONDS:
                    raise ClockJumped
                self._offset += ahead
            return datetime.fromtimestamp(steady + self._offset, UTC)

    def monotonic(self) -> float:
        """Return seconds since boot."""
        return monotonic()
