"""Times for people: relative to now, with the exact time beside them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from keyauthority.clock import ClockJumped, SystemClock

_UNITS: Final = (
    ("year", 365 * 86_400),
    ("month", 30 * 86_400),
    ("day", 86_400),
    ("hour", 3_600),
    ("minute", 60),
)


class PageClock:
    """The time that pages refer to. A jump of the machine's clock is adopted at once."""

    def __init__(self) -> None:
        self._clock = SystemClock()

    def now(self) -> datetime:
        """Return the time in UTC."""
        try:
            return self._clock.now()
        except ClockJumped:
            self._clock = SystemClock()
            return self._clock.now()


def exact(time: datetime | None) -> str:
    """Return the time in UTC, in ISO 8601 with all its digits; empty for None."""
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z") if time else ""


def readable(time: datetime) -> str:
    """Return the time in UTC to the second, for people."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def relative(time: datetime, now: datetime) -> str:
    """Return the distance to now: `3 minutes ago`, `in 2 days`."""
    seconds = (time - now).total_seconds()
    if abs(seconds) < 45:
        return "just now" if seconds <= 0 else "in a moment"
    text = span(abs(seconds))
    return f"in {text}" if seconds > 0 else f"{text} ago"


def span(seconds: float | timedelta) -> str:
    """Return a length of time in its largest fitting unit, rounded."""
    if isinstance(seconds, timedelta):
        seconds = seconds.total_seconds()
    for unit, size in _UNITS:
        count = round(seconds / size)
        if seconds >= 0.95 * size and count >= 1:
            return f"{count} {unit}{'s' if count > 1 else ''}"
    count = round(seconds)
    return f"{count} second{'' if count == 1 else 's'}"
