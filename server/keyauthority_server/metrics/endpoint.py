"""Sums over all workers, exported to Prometheus by the supervisor over HTTP."""

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

from keyauthority.model import AdvisoryType
from keyauthority_server.config import HostPort, refusal
from keyauthority_server.metrics.counting import BOUNDS, EVENTS, GAUGES, Counts
from keyauthority_server.metrics.http import MetricsServer

_LABELS: Final = ("grpc_type", "grpc_service", "grpc_method")
_BUCKETS: Final = (*map(floatToGoString, BOUNDS), "+Inf")


class MetricsAggregator(Collector):
    """Counts of all workers since the supervisor started, ended workers included.

    Safe for use in any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._handled: Counter[tuple[str, str, str, str]] = Counter()
        self._buckets: dict[tuple[str, str, str], list[int]] = {}
        self._seconds: defaultdict[tuple[str, str, str], float] = defaultdict(float)
        self._events = {name: Counter[str]() for name in EVENTS}
        self._gauges: defaultdict[str, dict[int, float]] = defaultdict(dict)
        self._advisories = dict.fromkeys(map(str, AdvisoryType), 0)
        self._streams: dict[int, int] = {}
        self._pids: dict[int, int] = {}
        self._restarts = 0
        self._serving = 0

    def add(self, worker: int, counts: Counts) -> None:
        """Add the counts of a worker."""
        with self._lock:
            for call in counts["calls"]:
                method = (call["type"], call["service"], call["method"])
                for code, count in call["codes"].items():
                    self._handled[(*method, code)] += count
                total = self._buckets.get(method, [0] * len(_BUCKETS))
                self._buckets[method] = [a + b for a, b in zip(total, call["buckets"], strict=True)]
                self._seconds[method] += call["seconds"]
            for name, events in counts["events"].items():
                self._events[name].update(events)
            for name, value in counts["gauges"].items():
                self._gauges[name][worker] = value
            self._advisories.update(counts["advisories"])
        if (streams := counts["streams"]) is not None:
            self.streams(worker, streams)

    def streams(self, worker: int, number: int) -> None:
        """Set the number of streams open in a worker."""
        self._streams[worker] = number

    def started(self, worker: int, pid: int) -> None:
        """Note the process of a worker."""
        with self._lock:
            self._pids[worker] = pid

    def ended(self, worker: int) -> None:
        """Note that a worker's process has ended, and its streams."""
        with self._lock:
            self._pids.pop(worker, None)
            for values in self._gauges.values():
                values.pop(worker, None)
        self._streams[worker] = 0

    def pids(self) -> dict[int, int]:
        """Return the process of each worker that lives."""
        with self._lock:
            return dict(self._pids)

    def workers(self, serving: int, restarts: int) -> None:
        """Set the numbers of serving workers and of restarts."""
        self._serving = serving
        self._restarts = restarts

    def collect(self) -> Iterator[Metric]:
        """Return the current values."""
        with self._lock:
            return iter([*self._calls(), *self._outcomes(), *self._states()])

    def _calls(self) -> Iterator[Metric]:
        handled = CounterMetricFamily(
            "grpc_server_handled",
            "Completed calls, by status code.",
            labels=(*_LABELS, "grpc_code"),
        )
        for labels, count in self._handled.items():
            handled.add_metric(labels, count)
        yield handled
        handling = HistogramMetricFamily(
            "grpc_server_handling_seconds",
            "Time from the start of the handler to its response.",
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
        for name, (text, label) in EVENTS.items():
            family = CounterMetricFamily(name, text, labels=(label,))
            for value, count in self._events[name].items():
                family.add_metric((value,), count)
            yield family

    def _states(self) -> Iterator[Metric]:
        for name, values in self._gauges.items():
            if values:
                gauge = GAUGES[name]
                yield GaugeMetricFamily(name, gauge.text, gauge.combine(values.values()))
        advisories = GaugeMetricFamily(
            "keyauthority_advisories",
            "Keys that need attention, by the type of the advisory.",
            labels=("type",),
        )
        for advisory_type, number in self._advisories.items():
            advisories.add_metric((advisory_type,), number)
        yield advisories
        yield GaugeMetricFamily(
            "keyauthority_watchers", "Open watches.", sum(self._streams.values())
        )
        yield GaugeMetricFamily("keyauthority_workers", "Serving workers.", self._serving)
        yield CounterMetricFamily(
            "keyauthority_worker_restarts",
            "Workers restarted after a death.",
            self._restarts,
        )


def serve(address: HostPort, *collectors: Collector) -> int:
    """Serve the collectors in a thread and return the port.

    Raises TransientError if the port is in use.
    """
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    try:
        server = MetricsServer(address, registry)
    except OSError as error:
        raise refusal(error, f"cannot listen for metrics on {address}") from error
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return int(server.server_address[1])
