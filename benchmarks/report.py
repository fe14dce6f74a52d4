"""The table of all that was measured, in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from benchmarks.figures import Figure, Part, Ratio

_INTRODUCTION = """\
# What it costs

Made by `make bench`; [docs/performance.md](../docs/performance.md) says what the figures mean. All
sides of a table were measured in one run, taking turns; a figure is the median of its rounds, with
the least and the most beside it, and the columns after it show medians. A ratio is the median of
the rounds' ratios: what slows the machine slows both of its sides. The rounds are in
[results.json](results.json).

![Verify's rate beside others](results.svg)
"""
_COLUMNS: Final = {", p50": "ms", ", p99": "ms", ": processor time": "µs"}
"""Figures that stand in columns beside another, by the end of their name, and their unit."""


def markdown(
    parts: Mapping[str, Part], machine: Mapping[str, str], versions: Mapping[str, str]
) -> str:
    """Return the report."""
    lines = [_INTRODUCTION, "| machine | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in machine.items()]
    lines += [f"| {name} | {value} |" for name, value in versions.items()]
    for part in parts.values():
        lines += ["", f"## {part.title}", "", part.text, "", *_table(part)]
        lines += ["", f"Measured {part.taken} at commit {part.commit}."]
    return "\n".join(lines) + "\n"


def _table(part: Part) -> Iterator[str]:
    figures = {(figure.name, figure.unit): figure for figure in part.figures}
    names = {figure.name for figure in part.figures}
    beside = {
        (name, ending): figures[name + ending, unit]
        for name in names
        for ending, unit in _COLUMNS.items()
        if (name + ending, unit) in figures
    }
    columns = [ending for ending in _COLUMNS if any(ending == found for _, found in beside)]
    heads = [f" {ending.strip(',: ')}, {_COLUMNS[ending]} |" for ending in columns]
    yield "| | median | least | most | |" + "".join(heads)
    yield "|---|---:|---:|---:|---|" + "---:|" * len(columns)
    for figure in part.figures:
        if figure not in beside.values():
            yield _row(figure, [beside.get((figure.name, ending)) for ending in columns])
    if part.ratios:
        yield ""
        yield "| ratio | median | least | most | aim |"
        yield "|---|---:|---:|---:|---|"
        for ratio in part.ratios:
            yield _ratio_row(ratio)
    if part.left_out:
        yield ""
    for reason in part.left_out:
        yield f"- Left out: {reason}."


def _row(figure: Figure, beside: Sequence[Figure | None]) -> str:
    """Return a figure's line, with the medians of others in columns beside it."""
    numbers = (figure.median, min(figure.rounds), max(figure.rounds))
    cells = [figure.name, *map(_shown, numbers), figure.unit]
    line = f"| {' | '.join(cells)} |"
    return line + "".join(f" {_shown(one.median)} |" if one else " |" for one in beside)


def _ratio_row(ratio: Ratio) -> str:
    numbers = (ratio.median, min(ratio.rounds), max(ratio.rounds))
    shown = " | ".join(f"{number:.2f}" for number in numbers)
    return f"| {ratio.name} | {shown} | {ratio.aim} |"


def _shown(number: float) -> str:
    """Return a number with three digits that count, at least."""
    if number >= 100:
        return f"{number:,.0f}"
    return f"{number:.1f}" if number >= 10 else f"{number:.2f}"
