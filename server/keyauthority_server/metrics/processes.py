"""Figures of the server's processes, and of its build: read at each scrape."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.metadata import version

from prometheus_client import ProcessCollector
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector


class Processes(Collector):
    """Exports memory, descriptors and processor time of the supervisor and each worker."""

    def __init__(self, workers: Callable[[], Mapping[int, int]]) -> None:
        """`workers` returns the process of each worker that lives."""
        self._workers = workers

    def collect(self) -> Iterator[Metric]:
        """Return the current values; a process that has just ended is left out."""
        families: dict[str, Metric] = {}
        pids = {f"worker-{number}": pid for number, pid in self._workers().items()}
        for name, pid in {"supervisor": os.getpid(), **pids}.items():
            for metric in ProcessCollector(pid=partial(int, pid), registry=None).collect():
                family = families.setdefault(
                    metric.name, Metric(metric.name, metric.documentation, metric.type)
                )
                for sample in metric.samples:
                    family.add_sample(sample.name, {"process": name}, sample.value)
        yield from families.values()


class Server(Collector):
    """Exports the version of the server, and the bound of its answers' age."""

    def __init__(self, engine: str, max_staleness: float) -> None:
        self._labels = {
            "version": version("keyauthority"),
            "python": platform.python_version(),
            "engine": engine,
        }
        self._max_staleness = max_staleness

    def collect(self) -> Iterator[Metric]:
        """Return the values, which never change."""
        yield InfoMetricFamily("keyauthority_build", "The server's build; always 1.", self._labels)
        yield GaugeMetricFamily(
            "keyauthority_max_staleness_seconds",
            "The setting --max-staleness: a server beyond it answers UNAVAILABLE.",
            self._max_staleness,
        )
