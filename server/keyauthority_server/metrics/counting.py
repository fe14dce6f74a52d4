"""Counting in a worker: plain numbers in memory, taken from time to time."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import ClassVar, Final, TypedDict

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


OLD_PEPPERS: Final = "keyauthority_keys_under_old_peppers"
CLOCK_AHEAD: Final = "keyauthority_clock_ahead_seconds"
STALENESS: Final = "keyauthority_staleness_seconds"
CACHED: Final = "keyauthority_cached_keys"
GAUGES: Final[Mapping[str, str]] = {
    OLD_PEPPERS: "Keys whose digest is under a version of the pepper before the current one.",
    CLOCK_AHEAD: "How far the store's time is ahead of the machine's clock; negative: behind.",
    STALENESS: "How old the state may be that one worker answers Verify from; 0 on SQLite.",
    CACHED: "Keys that one worker keeps in memory.",
}
"""What one worker measures of the whole authority, and what it means."""


class CallCounts(TypedDict):
    """What was counted of one method."""

    type: str
    """As gRPC's metrics name it: `unary`, `server_stream`."""
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
    refusals: dict[str, int]
    """Calls that were turned away, by the ground."""
    looks: dict[str, int]
    """Looks at records, by what answered them: `memory` or `store`."""
    streams: int | None
    """How many are open in this worker; None if as many as before."""
    gauges: dict[str, float]
    """What was measured anew, by its name in `GAUGES`."""


class CallMetrics:
    """The calls of one method."""

    type: ClassVar[str] = "unary"

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
            type=self.type,
            service=self._service,
            method=self._method,
            codes=dict(self._codes),
            buckets=self._buckets,
            seconds=self._seconds,
        )
        self._reset()
        return counts


class StreamMetrics(CallMetrics):
    """The calls of one method that answers with a stream."""

    type = "server_stream"

    def __init__(self, service: str, method: str) -> None:
        super().__init__(service, method)
        self.open = 0
        """How many are open now."""

    def streams(self, number: int) -> None:
        """Count streams that were opened; less than 0 for those that have ended."""
        self.open += number


class Metrics:
    """All that one worker counts. Used in its event loop only."""

    def __init__(self) -> None:
        self._calls: dict[tuple[str, str], CallMetrics] = {}
        self._streams: dict[tuple[str, str], StreamMetrics] = {}
        self._streams_told = 0
        self._verifications: Counter[str] = Counter()
        self._refusals: Counter[str] = Counter()
        self._looks: Counter[str] = Counter()
        self._gauges: dict[str, float] = {}

    def call(self, service: str, method: str) -> CallMetrics:
        """Return the counter of a method: look it up at registration, not at each call."""
        return self._calls.setdefault((service, method), CallMetrics(service, method))

    def stream(self, service: str, method: str) -> StreamMetrics:
        """Return the counter of a method that answers with a stream."""
        return self._streams.setdefault((service, method), StreamMetrics(service, method))

    def verification(self, verdict: str) -> None:
        """Count one verdict."""
        self._verifications[verdict] += 1

    def refused(self, ground: str, calls: int = 1) -> None:
        """Count calls that were turned away."""
        self._refusals[ground] += calls

    def looked(self, counts: Mapping[str, int]) -> None:
        """Add what became of reads of single records."""
        self._looks.update(counts)

    def gauge(self, name: str, value: float) -> None:
        """Set what was measured."""
        self._gauges[name] = value

    def take(self) -> Counts | None:
        """Return what was counted since the last time, None if that is nothing."""
        streams = sum(one.open for one in self._streams.values())
        taken: Iterable[CallCounts | None] = (
            call.take() for call in (*self._calls.values(), *self._streams.values())
        )
        counts = Counts(
            calls=[call for call in taken if call],
            verifications=dict(self._verifications),
            refusals=dict(self._refusals),
            looks=dict(self._looks),
            streams=None if streams == self._streams_told else streams,
            gauges=self._gauges,
        )
        self._streams_told = streams
        self._verifications.clear()
        self._refusals.clear()
        self._looks.clear()
        self._gauges = {}
        return counts if any(counts.values()) else None
