"""A wall clock that a test sets while servers run on it."""

from __future__ import annotations

import time
from pathlib import Path


class ShiftedClock:
    """The module `time` of `keyauthority.clock`, with a wall clock that is off by a set amount."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def time(self) -> float:
        """Return the wall clock's time."""
        return time.time() + float(self._path.read_text())

    def clock_gettime(self, clock: int) -> float:
        """Return the time of a clock that is never set."""
        return time.clock_gettime(clock)


def shift(path: Path, seconds: float) -> None:
    """Set the wall clock of all who look at `path`."""
    draft = path.with_suffix(".draft")
    draft.write_text(str(seconds))
    draft.replace(path)
