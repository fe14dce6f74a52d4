"""Sans-IO half of a watch: its position, and the freshness of the changes received.

Open a stream with the arguments from `resume`, pass each of its messages to `receive`, and reopen
it the same way when it ends: no change is missed or returned twice. Times are seconds of a
monotonic clock, such as `Clock.monotonic`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from keyauthority.clock import EPOCH
from keyauthority.model import Change
from keyauthority.results import WatchUpdate

RENEW_SECONDS: Final = 900.0  # two clocks drift apart by at most 0.1 s (100 parts per million)
SLACK_MAX: Final = 0.25  # seconds; a stream slower to open measures the server's clock too roughly
BACK_MAX: Final = 2.0  # seconds; largest difference of two correct servers, transit time included
REMEASURE_SECONDS: Final = 1.0  # the first retry; each later one waits twice as long

_NEVER: Final = float("-inf")


class ResumePoint(NamedTuple):
    """Arguments of the next WatchChanges stream."""

    from_revision: int | None
    log_id: str


class WatchDelta(NamedTuple):
    """The effect of one message."""

    changes: Sequence[Change]
    """Changes not returned before."""
    reset: bool
    """True if changes may have been missed: discard all earlier records."""


class WatchSession:
    """One watch over any number of streams."""

    def __init__(self) -> None:
        self.revision = 0
        """All changes up to this revision have been received."""
        self.log_id = ""
        self._opened = _NEVER
        self._measured = False
        self._renew = RENEW_SECONDS
        self.ahead = 0.0
        """Server clock minus local clock, in seconds; too large by at most one round trip."""
        self.floor = _NEVER
        """Server time given out, in seconds since the Unix epoch, below which none is again."""
        self._proven = _NEVER  # all changes committed before this local time have been received

    def forget(self) -> None:
        """Forget the position; keep the measured clock, which does not depend on the log."""
        self._proven = _NEVER
        self.revision, self.log_id = 0, ""

    def resume(self, at: float) -> ResumePoint:
        """Return the arguments of the stream that is opened now."""
        self._opened, self._measured = at, False
        return ResumePoint(self.revision if self.log_id else None, self.log_id)

    def receive(self, update: WatchUpdate, at: float) -> WatchDelta:
        """Process a message that arrived at `at`."""
        reset = bool(self.log_id) and (update.resync or update.log_id != self.log_id)
        if reset:
            self.forget()
        if update.resync:
            return WatchDelta((), reset)
        sent = update.server_time.timestamp()
        self._measure(sent, at)
        changes = tuple(change for change in update.changes if change.revision > self.revision)
        self.log_id = update.log_id
        if update.checkpoint:
            self.revision = max(self.revision, update.revision)
            self._proven = max(self._proven, sent - self.ahead - update.lag.total_seconds())
        elif changes:
            self.revision = changes[-1].revision
        return WatchDelta(changes, reset)

    def fresh_until(self, bound: float) -> float:
        """Return the local time at which the received state becomes older than `bound` seconds.

        The age counts from the time of sending, not of arrival: a delayed message proves nothing
        about the present.
        """
        return self._proven + bound

    def server_time(self, at: float) -> datetime:
        """Return the server's current time, too late by at most one round trip; never too early."""
        self.floor = max(self.floor, at + self.ahead)
        return EPOCH + timedelta(seconds=self.floor)

    def to_server_time(self, at: float) -> datetime:
        """Return the server's time at a local time in the past."""
        return EPOCH + timedelta(seconds=at + self.ahead)

    def due(self, at: float) -> bool:
        """Return True if the stream must be reopened to measure the clocks again."""
        return self._measured and at - self._opened > self._renew

    def _measure(self, sent: float, at: float) -> None:
        if not self._measured:  # the first message of a stream was sent after it was opened
            self.floor = max(self.floor, at + self.ahead)
            self.ahead = sent - self._opened
            if self.floor - (at + self.ahead) > BACK_MAX:
                self.floor = _NEVER  # one of the two clocks is wrong: follow the newer reading
            self._renew = self._next_renewal(slow=at - self._opened > SLACK_MAX)
            self._measured = True
        self.ahead = max(self.ahead, sent - at)  # every message is sent before it arrives

    def _next_renewal(self, *, slow: bool) -> float:
        if not slow:
            return RENEW_SECONDS
        if self._renew == RENEW_SECONDS:
            return REMEASURE_SECONDS
        return min(2 * self._renew, RENEW_SECONDS / 2)
