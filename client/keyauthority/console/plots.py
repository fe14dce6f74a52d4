"""Geometry of bar plots; the templates draw them as SVG."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from keyauthority.console.words import LIMITED
from keyauthority.model import UsageRow, VerdictCode

WIDTH: Final = 720
HEIGHT: Final = 120
GROUPS: Final = ("valid", "limited", "denied")

_GAP: Final = 0.2  # share of a bar's width


class Part(NamedTuple):
    """A rectangle of a bar."""

    group: str
    x: float
    y: float
    width: float
    height: float


class Bar(NamedTuple):
    """The verifications of one hour or day."""

    time: datetime
    counts: dict[str, int]
    parts: tuple[Part, ...]

    @property
    def total(self) -> int:
        """All verifications."""
        return sum(self.counts.values())


class Plot(NamedTuple):
    """Bars of equal spans of time, from the oldest to the newest."""

    bars: tuple[Bar, ...]
    top: int
    """The count at the top of the axis."""
    counts: dict[str, int]
    """The sums by group."""

    @property
    def is_empty(self) -> bool:
        """True if nothing was counted."""
        return not any(self.counts.values())


def group_of(verdict: VerdictCode) -> str:
    """Return the group of a verdict: one of `GROUPS`."""
    if verdict is VerdictCode.VALID:
        return "valid"
    return "limited" if verdict in LIMITED else "denied"


def plot(rows: Iterable[UsageRow], start: datetime, step: timedelta, number: int) -> Plot:
    """Return the plot of rows whose buckets are `number` steps from `start` on."""
    counted = [dict.fromkeys(GROUPS, 0) for _ in range(number)]
    for row in rows:
        place = (row.bucket_time - start) // step
        if 0 <= place < number:
            counted[place][group_of(row.verdict)] += row.count
    top = _ceiling(max((sum(counts.values()) for counts in counted), default=0))
    width = WIDTH / max(number, 1)
    bars = tuple(
        Bar(start + step * place, counts, tuple(_parts(counts, place * width, width, top)))
        for place, counts in enumerate(counted)
    )
    sums = {group: sum(counts[group] for counts in counted) for group in GROUPS}
    return Plot(bars, top, sums)


def _parts(counts: dict[str, int], x: float, width: float, top: int) -> Iterable[Part]:
    y = float(HEIGHT)
    for group in GROUPS:
        if counts[group]:
            height = max(HEIGHT * counts[group] / top, 1)  # a single denial is visible
            y -= height
            inner = width * (1 - _GAP)
            yield Part(
                group, round(x + (width - inner) / 2, 2), round(y, 2), *map(_two, (inner, height))
            )


def _two(number: float) -> float:
    return round(number, 2)


def _ceiling(count: int) -> int:
    """Return the next round number, the top of the axis."""
    size = 1
    while True:
        for tenths in (10, 12, 15, 20, 25, 30, 40, 50, 60, 80):
            top, rest = divmod(tenths * size, 10)
            if top >= count and not rest:
                return top
        size *= 10
