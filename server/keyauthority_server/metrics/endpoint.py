"""The sums over all workers, shown to Prometheus over HTTP by the supervisor."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from keyauthority_server.config import HostPort, refusal
from keyauthority_server.metrics.counting import BOUNDS, GAUGES, Counts
from keyauthority_server.metrics.http import MetricsServer

_LABELS: Final = ("grpc_type", "grpc_service", "grpc_method")
_BUCKETS: Final = (*map(floatToGoString, BOUNDS), "+Inf")


class MetricsAggregator(Collector):
    """What all workers have counted since the supervisor started, also those that have ended.

    May be used in any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._handled: Counter[tuple[str, str, str, str]] = Counter()
        self._buckets: dict[tuple[str, str, str], list[int]] = {}
        self._seconds: defaultdict[tuple[str, str, str], float] = defaultdict(float)
        self._verifications: Counter[str] = Counter()
        self._refusals: Counter[str] = Counter()
        self._looks: Counter[str] = Counter()
        self._gauges: dict[str, float] = {}
        self._streams: dict[int, int] = {}
        self._restarts = 0
        self._serving = 0

    def add(self, worker: int, counts: Counts) -> None:
        """Add what a worker has counted."""
        with self._lock:
            for call in counts["calls"]:
                method = (call["type"], call["service"], call["method"])
                for code, count in call["codes"].items():
                    self._handled[(*method, code)] += count
                known = self._buckets.get(method, [0] * len(_BUCKETS))
                self._buckets[method] = [a + b for a, b in zip(known, call["buckets"], strict=True)]
                self._seconds[method] += call["seconds"]
            self._verifications.update(counts["verifications"])
            self._refusals.update(counts["refusals"])
            self._looks.update(counts["looks"])
            self._gauges.update(counts["gauges"])
        if (streams := counts["streams"]) is not None:
            self.streams(worker, streams)

    def streams(self, worker: int, number: int) -> None:
        """Set how many streams are open in a worker; none in one that has ended."""
        self._streams[worker] = number

    def workers(self, serving: int, restarts: int) -> None:
        """Set how many workers serve, and how many were started in place of one that ended."""
        self._serving = serving
        self._restarts = restarts

    def collect(self) -> Iterator[Metric]:
        """Return the metrics as they are now."""
        with self._lock:
            return iter([*self._calls(), *self._outcomes()])

    def _calls(self) -> Iterator[Metric]:
        handled = CounterMetricFamily(
            "grpc_server_handled",
            "Calls that have ended, by their status.",
            labels=(*_LABELS, "grpc_code"),
        )
        for labels, count in self._handled.items():
            handled.add_metric(labels, count)
        yield handled
        handling = HistogramMetricFamily(
            "grpc_server_handling_seconds",
            "Time from the call's arrival at its handler to its answer.",
            labels=_LABELS,
        )
        for method, counts in self._buckets.items():
            total = 0
            buckets = []
            for bound, count in zip(_BUCKETS, counts, strict=True):
                total += count
                buckets.append((bound, float(total)))
            handling.add_metric(method, buckets, sum_value=self._seconds[method])
        yield handling

    def _outcomes(self) -> Iterator[Metric]:
        verifications = CounterMetricFamily(
            "keyauthority_verifications", "Verifications, by their verdict.", labels=("verdict",)
        )
        for verdict, count in self._verifications.items():
            verifications.add_metric((verdict,), count)
        yield verifications
        refusals = CounterMetricFamily(
            "keyauthority_refusals",
            "Calls turned away as OVERLOADED, by the ground: waiting, lane or peer.",
            labels=("ground",),
        )
        for ground, count in self._refusals.items():
            refusals.add_metric((ground,), count)
        yield refusals
        looks = CounterMetricFamily(
            "keyauthority_record_cache",
            "Tokens found proven in memory (hit), reads of the store (miss), records that were "
            "dropped or replaced because the log had changes of them (catch_up).",
            labels=("event",),
        )
        for event, count in self._looks.items():
            looks.add_metric((event,), count)
        yield looks
        for name, measured in self._gauges.items():
            yield GaugeMetricFamily(name, GAUGES[name], measured)
        yield GaugeMetricFamily(
            "keyauthority_watchers", "Watches that are open.", sum(self._streams.values())
        )
        yield GaugeMetricFamily("keyauthority_workers", "Workers that serve.", self._serving)
        yield CounterMetricFamily(
            "keyauthority_worker_restarts",
            "Workers that were started in place of one that ended.",
            self._restarts,
        )


def serve(address: HostPort, *collectors: Collector) -> int:
    """Show what they collect, in a thread, and return the port; TransientError if it is taken."""
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    try:
        server = MetricsServer(address, registry)
    except OSError as error:
        raise refusal(error, f"cannot listen for metrics on {address}") from error
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return int(server.server_address[1])
