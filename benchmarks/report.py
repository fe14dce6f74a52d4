"""The table of all that was measured, in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from benchmarks.figures import Figure, Part, Ratio

_INTRODUCTION = """\
# What it costs

Made by `make bench`; [docs/performance.md](../docs/performance.md) says what the figures mean. All
sides of a table were measured in one run, taking turns; a figure is the median of its rounds, with
the least and the most beside it. A ratio is the median of the rounds' ratios: what slows the
machine slows both of its sides. The rounds are in [results.json](results.json).

![Verify's rate beside others](results.svg)
"""


def markdown(
    parts: Mapping[str, Part], machine: Mapping[str, str], versions: Mapping[str, str]
) -> str:
    """Return the report."""
    lines = [_INTRODUCTION, "| machine | |", "|---|---|"]
    lines += [f"| {name} | {told} |" for name, told in machine.items()]
    lines += [f"| {name} | {told} |" for name, told in versions.items()]
    for part in parts.values():
        lines += ["", f"## {part.title}", "", part.text, "", *_table(part)]
        lines += ["", f"Measured {part.taken} at commit {part.commit}."]
    return "\n".join(lines) + "\n"


def _table(part: Part) -> Iterator[str]:
    yield "| | median | least | most | |"
    yield "|---|---:|---:|---:|---|"
    for figure in part.figures:
        yield _row(figure)
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


def _row(figure: Figure) -> str:
    numbers = (figure.median, min(figure.rounds), max(figure.rounds))
    return f"| {figure.name} | {' | '.join(map(_shown, numbers))} | {figure.unit} |"


def _ratio_row(ratio: Ratio) -> str:
    numbers = (ratio.median, min(ratio.rounds), max(ratio.rounds))
    shown = " | ".join(f"{number:.2f}" for number in numbers)
    return f"| {ratio.name} | {shown} | {ratio.aim} |"


def _shown(number: float) -> str:
    """Return a number with three digits that count, at least."""
    if number >= 100:
        return f"{number:,.0f}"
    return f"{number:.1f}" if number >= 10 else f"{number:.2f}"
