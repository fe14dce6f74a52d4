"""The disk that the database is on, as it is when somebody asks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector


class Disk(Collector):
    """Shows the space that is free, and how much of the reserve is left."""

    def __init__(self, reserve: Path) -> None:
        self._reserve = reserve

    def collect(self) -> Iterator[Metric]:
        """Return the metrics as they are now; none of what cannot be seen."""
        try:
            found = os.statvfs(self._reserve.parent)
            kept = self._reserve.stat().st_size
        except OSError:
            return
        yield GaugeMetricFamily(
            "keyauthority_disk_free_bytes",
            "Space that is free where the database is.",
            found.f_bavail * found.f_frsize,
        )
        yield GaugeMetricFamily(
            "keyauthority_disk_reserve_bytes",
            "Space kept in reserve for RevokeKey; it shrinks while the disk is full.",
            kept,
        )
