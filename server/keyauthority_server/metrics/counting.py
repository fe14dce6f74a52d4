"""Counting in a worker: plain numbers in memory, taken from time to time."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from typing import Final, TypedDict

BOUNDS: Final = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
)
"""Upper bounds of the histogram of handling times, in seconds: a Verify takes some 50 µs."""


class CallCounts(TypedDict):
    """What was counted of one method."""

    service: str
    method: str
    codes: dict[str, int]
    buckets: list[int]
    """Calls by duration: up to each of `BOUNDS`, and one more for the longer ones."""
    seconds: float


class Counts(TypedDict):
    """What a worker has counted since it was asked last."""

    calls: list[CallCounts]
    verifications: dict[str, int]


class CallMetrics:
    """The calls of one method."""

    def __init__(self, service: str, method: str) -> None:
        self._service = service
        self._method = method
        self._reset()

    def _reset(self) -> None:
        self._codes: Counter[str] = Counter()
        self._buckets = [0] * (len(BOUNDS) + 1)
        self._seconds = 0.0

    def finished(self, code: str, seconds: float) -> None:
        """Count one call that ended with the status `code` after `seconds`. Takes 0.5 µs."""
        self._codes[code] += 1
        self._buckets[bisect_left(BOUNDS, seconds)] += 1
        self._seconds += seconds

    def take(self) -> CallCounts | None:
        """Return what was counted since the last time, None if that is nothing."""
        if not self._codes:
            return None
        counts = CallCounts(
            service=self._service,
            method=self._method,
            codes=dict(self._codes),
            buckets=self._buckets,
            seconds=self._seconds,
        )
        self._reset()
        return counts


class Metrics:
    """All that one worker counts. Used in its event loop only."""

    def __init__(self) -> None:
        self._calls: dict[tuple[str, str], CallMetrics] = {}
        self._verifications: Counter[str] = Counter()

    def call(self, service: str, method: str) -> CallMetrics:
        """Return the counter of a method: look it up at registration, not at each call."""
        return self._calls.setdefault((service, method), CallMetrics(service, method))

    def verification(self, verdict: str) -> None:
        """Count one verdict."""
        self._verifications[verdict] += 1

    def take(self) -> Counts | None:
        """Return what was counted since the last time, None if that is nothing."""
        taken: Iterable[CallCounts | None] = (call.take() for call in self._calls.values())
        counts = Counts(
            calls=[call for call in taken if call],
            verifications=dict(self._verifications),
        )
        self._verifications.clear()
        return counts if any(counts.values()) else None
