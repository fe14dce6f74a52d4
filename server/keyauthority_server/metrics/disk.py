"""Free space on the database's disk, read at each scrape."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector


class Disk(Collector):
    """Exports the free space and the remaining reserve."""

    def __init__(self, reserve: Path) -> None:
        self._reserve = reserve

    def collect(self) -> Iterator[Metric]:
        """Return the current values; nothing if they cannot be read."""
        try:
            disk = os.statvfs(self._reserve.parent)
            reserve = self._reserve.stat().st_size
        except OSError:
            return
        yield GaugeMetricFamily(
            "keyauthority_disk_free_bytes",
            "Free space on the database's disk.",
            disk.f_bavail * disk.f_frsize,
        )
        yield GaugeMetricFamily(
            "keyauthority_disk_reserve_bytes",
            "Space reserved for RevokeKey; shrinks while the disk is full.",
            reserve,
        )
