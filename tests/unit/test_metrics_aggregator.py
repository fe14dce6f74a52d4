"""Gauges of several workers: one value of all that live."""

from __future__ import annotations

from keyauthority_server.metrics import CACHED, CHANGES_ACCEPTED, CLOCK_AHEAD, STALENESS, Metrics
from keyauthority_server.metrics.endpoint import MetricsAggregator


def report(aggregator: MetricsAggregator, worker: int, **gauges: float) -> None:
    """Report the gauges of a worker."""
    metrics = Metrics()
    for name, value in gauges.items():
        metrics.gauge(name, value)
    counts = metrics.take()
    assert counts is not None
    aggregator.add(worker, counts)


def shown(aggregator: MetricsAggregator, *names: str) -> list[float]:
    """The values of metrics without labels."""
    samples = {one.name: one.value for family in aggregator.collect() for one in family.samples}
    return [samples[name] for name in names]


def test_one_worker_hides_no_other() -> None:
    """The stalest, the clock that differs most, the one that commits nothing; keys are summed."""
    aggregator = MetricsAggregator()
    names = (STALENESS, CLOCK_AHEAD, CHANGES_ACCEPTED, CACHED)
    report(aggregator, 1, **dict(zip(names, (9.0, -3.0, 0.0, 5.0), strict=True)))
    report(aggregator, 0, **dict(zip(names, (0.1, 2.0, 1.0, 7.0), strict=True)))
    assert [9.0, -3.0, 0.0, 12.0] == shown(aggregator, *names)
    aggregator.ended(1)
    assert [0.1, 2.0, 1.0, 7.0] == shown(aggregator, *names)
