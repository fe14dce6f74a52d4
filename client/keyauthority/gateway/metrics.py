"""Metrics of one gateway."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Final

from keyauthority.endpoint.exposition import counter, gauge, text

GRPC: Final = "grpc"
HTTP: Final = "http"


class Metrics:
    """Counts checks. No label has a value that a client can choose."""

    def __init__(self) -> None:
        self._checks: Counter[tuple[str, str]] = Counter()

    def checked(self, end: str, verdict: str) -> None:
        """Count a check: a verdict in lower case, or the word of another rejection."""
        self._checks[end, verdict] += 1

    def text(self, staleness: timedelta | None, revision: int) -> str:
        """Return all metrics. Without a first update the staleness is infinite."""
        age = "+Inf" if staleness is None else f"{staleness.total_seconds():.3f}"
        return text(
            counter(
                "keyauthority_gateway_checks_total",
                "Checks by end and verdict.",
                (
                    ({"end": end, "verdict": verdict}, number)
                    for (end, verdict), number in sorted(self._checks.items())
                ),
            ),
            gauge(
                "keyauthority_gateway_staleness_seconds",
                "Maximum age of the state behind the verdicts.",
                [({}, age)],
            ),
            gauge(
                "keyauthority_gateway_revision",
                "Newest revision received from the authority.",
                [({}, revision)],
            ),
        )
