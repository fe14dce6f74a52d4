"""The sans-IO half of a watch: where it stands, and until when what it has told can be believed.

A stream is opened with what `resume` says, each of its messages is given to `receive`, and when it
has ended the next is opened in the same way: nothing is missed and nothing is told twice. Times are
seconds of a clock that only ever grows, such as `Clock.monotonic`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from keyauthority.model import Change
from keyauthority.results import WatchUpdate

RENEW_SECONDS: Final = 900.0  # two clocks may drift apart by 0.1 s meanwhile (100 parts a million)
SLACK_MAX: Final = 0.25  # seconds; a stream that took longer to begin has measured the clock badly
BACK_MAX: Final = (
    2.0  # seconds; what two right servers may differ by, the way of a message included
)
REMEASURE_SECONDS: Final = 1.0  # the first time, then twice as long: a slow server is left in peace

_NEVER: Final = float("-inf")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class ResumePoint(NamedTuple):
    """What to ask WatchChanges for."""

    from_revision: int | None
    log_id: str


class WatchDelta(NamedTuple):
    """What a message has told."""

    changes: Sequence[Change]
    """Those that were not told before."""
    reset: bool
    """True: what was known before may be wrong, since changes of it may have been missed."""


class WatchSession:
    """One watch over any number of streams."""

    def __init__(self) -> None:
        self.revision = 0
        """All changes up to here have been told."""
        self.log_id = ""
        self._opened = _NEVER
        self._measured = False
        self._renew = RENEW_SECONDS
        self.ahead = 0.0
        """The server's clock less ours, in seconds: what it is, or up to a round trip more."""
        self._floor = _NEVER  # the time does not run back, unless a server's clock was wrong
        self._proven = _NEVER  # all that was committed by then, in our clock, has been told

    def forget(self) -> None:
        """Begin anew, but for the time: a clock is not of the log that it was told with."""
        self._proven = _NEVER
        self.revision, self.log_id = 0, ""

    def resume(self, at: float) -> ResumePoint:
        """Return what the stream that is opened now has to ask for."""
        self._opened, self._measured = at, False
        return ResumePoint(self.revision if self.log_id else None, self.log_id)

    def receive(self, update: WatchUpdate, at: float) -> WatchDelta:
        """Take a message in; `at` is when it came."""
        reset = bool(self.log_id) and (update.resync or update.log_id != self.log_id)
        if reset:
            self.forget()
        if update.resync:
            return WatchDelta((), reset)
        told = _seconds(update.server_time)
        self._measure(told, at)
        changes = tuple(one for one in update.changes if one.revision > self.revision)
        self.log_id = update.log_id
        if update.checkpoint:
            self.revision = max(self.revision, update.revision)
            sent = told - self.ahead
            self._proven = max(self._proven, sent - update.lag.total_seconds())
        elif changes:
            self.revision = changes[-1].revision
        return WatchDelta(changes, reset)

    def fresh_until(self, bound: float) -> float:
        """Return when what was told gets older than `bound` seconds, in our clock.

        It is counted from when the server said it, not from when it came: a message that was long
        under way proves nothing of now.
        """
        return self._proven + bound

    def server_time(self, at: float) -> datetime:
        """Return the time that the server has, or will have a round trip later: never earlier."""
        self._floor = max(self._floor, at + self.ahead)
        return _EPOCH + timedelta(seconds=self._floor)

    def moment(self, at: float) -> datetime:
        """Return the server's time at a moment that has been."""
        return _EPOCH + timedelta(seconds=at + self.ahead)

    def due(self, at: float) -> bool:
        """True if the stream should be opened anew, to compare the clocks again."""
        return self._measured and at - self._opened > self._renew

    def _measure(self, told: float, at: float) -> None:
        if not self._measured:  # the first of a stream: it was sent after the stream was opened
            self._floor = max(self._floor, at + self.ahead)
            self.ahead = told - self._opened
            if self._floor - (at + self.ahead) > BACK_MAX:
                self._floor = _NEVER  # that server's clock was wrong, or is now: this one is met
            self._renew = self._next_renewal(slow=at - self._opened > SLACK_MAX)
            self._measured = True
        self.ahead = max(self.ahead, told - at)  # and each was sent before it came

    def _next_renewal(self, *, slow: bool) -> float:
        if not slow:
            return RENEW_SECONDS
        if self._renew == RENEW_SECONDS:
            return REMEASURE_SECONDS
        return min(2 * self._renew, RENEW_SECONDS / 2)


def _seconds(time: datetime) -> float:
    return (time - _EPOCH).total_seconds()
