"""Clocks: the only module that reads the system time.

The clock of a process never runs backwards. After a forward jump that the monotonic clock does not
confirm it raises ClockJumped instead of returning a time by which every key might expire.
"""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
LONG_AGO: Final = datetime.min.replace(tzinfo=UTC)  # before every time of a record
JUMP_MAX: Final = timedelta(hours=1)  # above any NTP step, below the useful life of a key
_JUMP_SECONDS: Final = JUMP_MAX.total_seconds()
_BOOT_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # the first: Linux


def monotonic() -> float:
    """Return seconds since boot, never decreasing, to measure durations."""
    return time.clock_gettime(_BOOT_CLOCK)


def wall_offset() -> float:
    """Return the machine's wall clock minus its boot clock, in seconds; never too large."""
    wall = time.time()  # first, so that a delay before the next line cannot count as ahead
    return wall - monotonic()


class ClockJumped(Exception):
    """The wall clock jumped ahead of the monotonic clock by more than `JUMP_MAX`."""


class Clock(Protocol):
    """Interface of a clock."""

    def now(self) -> datetime:
        """Return the time in UTC, never earlier than an earlier result.

        Raises ClockJumped while the wall clock cannot be trusted.
        """
        ...

    def monotonic(self) -> float:
        """Return seconds, never decreasing, to measure durations."""
        ...


class SystemClock:
    """The machine's clock, with the guarantees of this module.

    It advances with the boot clock, which cannot be set and includes suspend time, and follows
    the wall clock forward only: setting the wall clock back has no effect. It starts no earlier
    than `not_before`, the newest time committed by the store. A restart accepts a jump, since it
    adopts the current wall clock.
    """

    def __init__(self, not_before: datetime | None = None) -> None:
        floor = not_before.timestamp() - monotonic() if not_before else float("-inf")
        self._offset = max(self._measured(), floor)
        self._lock = threading.Lock()

    def now(self) -> datetime:
        """Return the time in UTC; see `Clock.now`. Thread-safe."""
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
        """Seconds by which this clock is ahead of the machine's wall clock; may be negative."""
        return self._offset - wall_offset()

    _measured = staticmethod(wall_offset)
    """Returns the followed clock minus the boot clock, in seconds; never too large."""


class ReferenceClock(SystemClock):
    """The clock of another machine, with the same guarantees; ignores the local wall clock."""

    def __init__(self, reference: Reference, not_before: datetime | None = None) -> None:
        """Follow a reference that has been read at least once."""
        self._reference = reference
        super().__init__(not_before)

    @property
    def ahead(self) -> float:
        """See `SystemClock.ahead`; corrected for the round trip of the reading."""
        return super().ahead + max(0.0, min(self._reference.slack, -super().ahead))

    def _measured(self) -> float:
        return self._reference.offset


class Reference:
    """The newest reading of another machine's clock. Any thread may read it."""

    def __init__(self) -> None:
        self.offset = float("-inf")
        """Lower bound of that clock minus the boot clock, in seconds."""
        self.slack = 0.0
        """Maximum error of `offset`, in seconds."""

    def read(self, seconds: float, asked: float) -> None:
        """Record a reading, in seconds since the Unix epoch, requested at `asked`."""
        answered = monotonic()
        self.offset, self.slack = seconds - answered, answered - asked
