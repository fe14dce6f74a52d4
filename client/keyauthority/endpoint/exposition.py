"""The text format of Prometheus, for the few metrics of a small program.

exposition.text(exposition.gauge("queue_length", "Waiting events.", [({}, 3)]))
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

Samples = Iterable[tuple[Mapping[str, str], str | int]]
"""Labels, whose values need no escape, and the value."""


def counter(name: str, text: str, samples: Samples) -> Iterator[str]:
    """Return the lines of a counter; its name ends with `_total`."""
    return _family("counter", name, text, samples)


def gauge(name: str, text: str, samples: Samples) -> Iterator[str]:
    """Return the lines of a gauge."""
    return _family("gauge", name, text, samples)


def text(*families: Iterable[str]) -> str:
    """Return the page of these metrics."""
    return "".join(f"{line}\n" for family in families for line in family)


def _family(kind: str, name: str, text: str, samples: Samples) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"
    for labels, value in samples:
        named = ",".join(f'{label}="{word}"' for label, word in labels.items())
        yield f"{name}{{{named}}} {value}" if named else f"{name} {value}"
