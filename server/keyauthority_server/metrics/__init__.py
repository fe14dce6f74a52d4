"""Metrics: counted in the workers, summed and exported by the supervisor.

Counting must stay a few operations on plain numbers, workers must not import Prometheus, and no
label may contain a value that a caller can choose. Begin with `counting.Metrics`, then read
`endpoint.MetricsAggregator`.
"""

from keyauthority_server.metrics.counting import (
    CACHED,
    CERTIFICATE_END,
    CHANGES_ACCEPTED,
    CLOCK_AHEAD,
    OLD_PEPPERS,
    STALENESS,
    CallMetrics,
    Metrics,
)

__all__ = [
    "CACHED",
    "CERTIFICATE_END",
    "CHANGES_ACCEPTED",
    "CLOCK_AHEAD",
    "OLD_PEPPERS",
    "STALENESS",
    "CallMetrics",
    "Metrics",
]
