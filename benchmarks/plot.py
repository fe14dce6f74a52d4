"""The figures of a few parts as bars, in SVG."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final
from xml.sax.saxutils import escape

from benchmarks.figures import Figure, Part

DRAWN: Final = {
    "traffic": "calls/s",
    "verify": "calls/s",
    "batch": "keys/s",
    "features": "calls/s",
    "changes": "/s",
}
"""The parts that are drawn, and the unit whose figures are."""

_NOT_IN_SHORT: Final = ("Zipf", "rate limit")
_WIDTH: Final = 950
_NAMES: Final = 420  # pixels for the names, on the left
_NUMBERS: Final = 90  # and for the numbers, on the right
_BAR: Final = 22
_TITLE: Final = 38
_OURS: Final = "#1f6f54"
_THEIRS: Final = "#9aa5b1"
_STYLE: Final = "font: 13px system-ui, sans-serif"
_BESIDE_OTHERS: Final = ("traffic", "verify", "changes")
_OURS_BEGIN: Final = ("Verify", "CreateKey", "RevokeKey")


def traffic_svg(part: Part) -> str:
    """Return the drawing of one part: its usual figures, without the variations of the keys."""
    usual = [
        figure for figure in part.figures if not any(word in figure.name for word in _NOT_IN_SHORT)
    ]
    return svg({"traffic": replace(part, figures=usual)})


def svg(parts: Mapping[str, Part]) -> str:
    """Return the drawing."""
    drawn: list[str] = []
    height = 0
    for name, unit in DRAWN.items():
        part = parts.get(name)
        figures = [figure for figure in part.figures if figure.unit == unit] if part else []
        if part and figures:
            drawn += _panel(part.title, unit, figures, height, ours=name not in _BESIDE_OTHERS)
            height += _TITLE + _BAR * len(figures) + 16
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'width="{_WIDTH}" height="{height}" style="{_STYLE}">'
    )
    back = f'<rect width="{_WIDTH}" height="{height}" fill="white"/>'
    return "\n".join([head, back, *drawn, "</svg>", ""])


def _panel(
    title: str, unit: str, figures: Sequence[Figure], top: int, *, ours: bool
) -> Iterator[str]:
    """Yield a title and a bar for each figure, to one scale; a line shows least and most."""
    room = _WIDTH - _NAMES - _NUMBERS
    scale = room / max(max(figure.rounds) for figure in figures)
    yield f'<text x="8" y="{top + 24}" font-weight="bold">{escape(f"{title}, {unit}")}</text>'
    for index, figure in enumerate(figures):
        y = top + _TITLE + index * _BAR
        colour = _OURS if ours or figure.name.startswith(_OURS_BEGIN) else _THEIRS
        end, text = _NAMES + figure.median * scale, y + 15
        least, most = (
            _NAMES + number * scale for number in (min(figure.rounds), max(figure.rounds))
        )
        yield f'<text x="{_NAMES - 8}" y="{text}" text-anchor="end">{escape(figure.name)}</text>'
        yield (
            f'<rect x="{_NAMES}" y="{y + 3}" width="{end - _NAMES:.1f}" height="{_BAR - 6}" '
            f'fill="{colour}"/>'
        )
        yield (
            f'<line x1="{least:.1f}" x2="{most:.1f}" y1="{y + 11}" y2="{y + 11}" stroke="#333"/>'
        )
        yield f'<text x="{_WIDTH - _NUMBERS + 4}" y="{text}">{figure.median:,.0f}</text>'
