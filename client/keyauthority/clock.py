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
        floor = not_before.timestamp() - monotonic() if not_before else float("-inf")
        self._offset = max(self._measured(), floor)
        self._lock = threading.Lock()

    def now(self) -> datetime:
        """Return the time in UTC; see `Clock.now`. Any thread may ask."""
        with self._lock:
            ahead = self._measured() - self._offset
            if ahead > 0:
                if ahead > _JUMP_SECONDS:
                    raise ClockJumped
                self._offset += ahead
            return datetime.fromtimestamp(monotonic() + self._offset, UTC)

    def monotonic(self) -> float:
        """Return seconds since boot."""
        return monotonic()

    @property
    def ahead(self) -> float:
        """Seconds by which this clock is ahead of the machine's wall clock; negative: behind."""
        return self._offset - wall_offset()

    def _measured(self) -> float:
        """Return the followed clock less the boot clock, in seconds; never too much."""
        return wall_offset()


class ReferenceClock(SystemClock):
    """Another machine's clock, held to the same rules; the own wall clock is not asked."""

    def __init__(self, reference: Reference, not_before: datetime | None = None) -> None:
        """Follow a reference that was read once at least."""
        self._reference = reference
        super().__init__(not_before)

    @property
    def ahead(self) -> float:
        """See `SystemClock.ahead`; what the way of a reading may account for does not count."""
        return super().ahead + max(0.0, min(self._reference.slack, -super().ahead))

    def _measured(self) -> float:
        return self._reference.offset


class Reference:
    """What readings of another machine's clock have shown. Any thread may read it."""

    def __init__(self) -> None:
        self.offset = float("-inf")
        """That clock less the boot clock, in seconds, at the newest reading: at least so much."""
        self.slack = 0.0
        """It may be more by so much."""

    def read(self, seconds: float, asked: float) -> None:
        """Take in a reading, in seconds since the Unix epoch, that was asked for at `asked`."""
        answered = monotonic()
        self.offset, self.slack = seconds - answered, answered - asked


def wall_offset() -> float:
    """Return the machine's wall clock less its boot clock, in seconds; never too much."""
    wall = time.time()  # first: what passes until the next line must not count as ahead
    return wall - monotonic()
