"""Measurements: figures by round, ratios of figures, and the parts of a report."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One measured quantity, with a value per round."""

    name: str
    unit: str
    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The reported value."""
        return statistics.median(self.rounds)


@dataclass(frozen=True)
class Ratio:
    """One figure divided by another per round, since a slower machine slows both."""

    name: str
    rounds: tuple[float, ...]
    aim: str = ""
    """The target, such as `≥ 5`; empty without one."""

    @property
    def median(self) -> float:
        """The reported value."""
        return statistics.median(self.rounds)


@dataclass
class Part:
    """All measurements of one subject."""

    title: str
    text: str
    """The method, and notes on the figures."""
    figures: list[Figure] = field(default_factory=list)
    ratios: list[Ratio] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    """Measurements skipped on this machine, with the reasons."""
    commit: str = ""
    taken: str = ""

    def add(self, unit: str, measured: Mapping[str, Sequence[float]]) -> None:
        """Add a figure for each name."""
        self.figures += [Figure(name, unit, tuple(rounds)) for name, rounds in measured.items()]

    def compare(self, name: str, over: str, under: str, aim: str = "") -> None:
        """Add the ratio of two figures, unless one of them was left out."""
        by_name = {figure.name: figure.rounds for figure in self.figures}
        if over in by_name and under in by_name:
            pairs = zip(by_name[over], by_name[under], strict=True)
            self.ratios.append(Ratio(name, tuple(upper / lower for upper, lower in pairs), aim))

    def as_json(self) -> dict[str, Any]:
        """Return the part as JSON values for `part_from`."""
        return asdict(self)


def part_from(stored: Mapping[str, Any]) -> Part:
    """Rebuild a part from the result of `as_json`."""
    figures = [Figure(row["name"], row["unit"], tuple(row["rounds"])) for row in stored["figures"]]
    ratios = [Ratio(row["name"], tuple(row["rounds"]), row["aim"]) for row in stored["ratios"]]
    return Part(**{**stored, "figures": figures, "ratios": ratios})


def quantile(values: Iterable[float], share: float) -> float:
    """Return the value that `share` of all values do not exceed."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]
