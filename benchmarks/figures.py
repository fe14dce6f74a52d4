"""What was measured: figures by round, ratios of figures, and the part that they belong to."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One thing that was measured, once in each round."""

    name: str
    unit: str
    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        """What counts."""
        return statistics.median(self.rounds)


@dataclass(frozen=True)
class Ratio:
    """One figure over another, round by round: what slows the machine slows both."""

    name: str
    rounds: tuple[float, ...]
    aim: str = ""
    """What it should be, such as `≥ 5`; empty if nobody has said."""

    @property
    def median(self) -> float:
        """What counts."""
        return statistics.median(self.rounds)


@dataclass
class Part:
    """All that was measured of one subject."""

    title: str
    text: str
    """How it was measured, and what to know when reading the figures."""
    figures: list[Figure] = field(default_factory=list)
    ratios: list[Ratio] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    """What could not be measured here, and why."""
    commit: str = ""
    taken: str = ""

    def add(self, unit: str, measured: Mapping[str, Sequence[float]]) -> None:
        """Add a figure for each name."""
        self.figures += [Figure(name, unit, tuple(rounds)) for name, rounds in measured.items()]

    def compare(self, name: str, over: str, under: str, aim: str = "") -> None:
        """Add the ratio of two figures, unless one of them was left out."""
        known = {figure.name: figure.rounds for figure in self.figures}
        if over in known and under in known:
            pairs = zip(known[over], known[under], strict=True)
            self.ratios.append(Ratio(name, tuple(one / other for one, other in pairs), aim))

    def as_json(self) -> dict[str, Any]:
        """Return what `part_from` reads."""
        return asdict(self)


def part_from(stored: Mapping[str, Any]) -> Part:
    """Return a part as it was when `as_json` was called."""
    figures = [Figure(one["name"], one["unit"], tuple(one["rounds"])) for one in stored["figures"]]
    ratios = [Ratio(one["name"], tuple(one["rounds"]), one["aim"]) for one in stored["ratios"]]
    return Part(**{**stored, "figures": figures, "ratios": ratios})


def quantile(values: Iterable[float], share: float) -> float:
    """Return the value that `share` of all are not above."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]
