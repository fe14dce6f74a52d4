"""Metrics of one gateway, in the text format of Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Final

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

GRPC: Final = "grpc"
HTTP: Final = "http"

_CHECKS: Final = "keyauthority_gateway_checks_total"
_STALENESS: Final = "keyauthority_gateway_staleness_seconds"
_REVISION: Final = "keyauthority_gateway_revision"


class Metrics:
    """Counts checks. No label has a value that a client can choose."""

    def __init__(self) -> None:
        self._checks: Counter[tuple[str, str]] = Counter()

    def checked(self, end: str, verdict: str) -> None:
        """Count a check: a verdict in lower case, or the word of another rejection."""
        self._checks[end, verdict] += 1

    def text(self, staleness: timedelta | None, revision: int) -> str:
        """Return all metrics. Without a first update the staleness is infinite."""
        return "".join(f"{line}\n" for line in self._lines(staleness, revision))

    def _lines(self, staleness: timedelta | None, revision: int) -> Iterator[str]:
        yield f"# HELP {_CHECKS} Checks by end and verdict."
        yield f"# TYPE {_CHECKS} counter"
        for (end, verdict), number in sorted(self._checks.items()):
            yield f'{_CHECKS}{{end="{end}",verdict="{verdict}"}} {number}'
        yield f"# HELP {_STALENESS} Maximum age of the state behind the verdicts."
        yield f"# TYPE {_STALENESS} gauge"
        age = "+Inf" if staleness is None else f"{staleness.total_seconds():.3f}"
        yield f"{_STALENESS} {age}"
        yield f"# HELP {_REVISION} Newest revision received from the authority."
        yield f"# TYPE {_REVISION} gauge"
        yield f"{_REVISION} {revision}"
