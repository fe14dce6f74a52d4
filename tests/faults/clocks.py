"""A wall clock that a test sets while servers run on it."""

from __future__ import annotations

import time
from pathlib import Path


class ShiftedClock:
    """Stands in for the module `time` in `keyauthority.clock`: the wall clock is off, as told."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def time(self) -> float:
        """Return the wall clock's time."""
        return time.time() + float(self._path.read_text())

    def clock_gettime(self, clock: int) -> float:
        """Return a clock's time that nobody sets."""
        return time.clock_gettime(clock)


def shift(path: Path, seconds: float) -> None:
    """Set the wall clock of all who look at `path`."""
    draft = path.with_suffix(".draft")
    draft.write_text(str(seconds))
    draft.replace(path)
