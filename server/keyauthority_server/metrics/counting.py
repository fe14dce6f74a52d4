"""Counters of one worker: plain numbers in memory, collected periodically."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import ClassVar, Final, NamedTuple, TypedDict

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
CHANGES_ACCEPTED: Final = "keyauthority_changes_accepted"
CERTIFICATE_END: Final = "keyauthority_certificate_expire_time_seconds"
CACHED: Final = "keyauthority_cached_keys"


class Gauge(NamedTuple):
    """A gauge that workers measure."""

    text: str
    """The help text."""
    combine: Callable[[Iterable[float]], float]
    """Makes one value of those of all workers."""


GAUGES: Final[Mapping[str, Gauge]] = {
    OLD_PEPPERS: Gauge("Keys whose digest uses an older version of the pepper.", max),
    CLOCK_AHEAD: Gauge("Store time minus the machine's clock.", partial(max, key=abs)),
    STALENESS: Gauge("Maximum age of the state behind Verify in any worker; 0 on SQLite.", max),
    CHANGES_ACCEPTED: Gauge("0 while a worker can commit no change until it is restarted.", min),
    CACHED: Gauge("Keys cached in all workers.", sum),
    CERTIFICATE_END: Gauge(
        "Expiry of the TLS certificate in use, in seconds since the Unix epoch.", min
    ),
}
"""The gauges by name."""


VERIFICATIONS: Final = "keyauthority_verifications"
REFUSALS: Final = "keyauthority_refusals"
CONNECTIONS: Final = "keyauthority_connections_closed"
CACHE_EVENTS: Final = "keyauthority_record_cache"


class Events(NamedTuple):
    """A counter of events by one label."""

    text: str
    """The help text."""
    label: str


EVENTS: Final[Mapping[str, Events]] = {
    VERIFICATIONS: Events("Verifications, by verdict.", "verdict"),
    REFUSALS: Events("Calls rejected as OVERLOADED, by ground: waiting, lane or peer.", "ground"),
    CONNECTIONS: Events("TLS connections that the server refused or closed, by ground.", "ground"),
    CACHE_EVENTS: Events(
        "Tokens verified from the cache (hit), store reads (miss), records dropped or "
        "replaced because of changes in the log (catch_up).",
        "event",
    ),
}
"""The counters by name."""


ALERTED_CODES: Final = ("OK", "RESOURCE_EXHAUSTED", "INTERNAL", "UNAVAILABLE")
"""Status codes that each method has from the start: an alert sees the first failure as one."""


class CallCounts(TypedDict):
    """Counts of one method."""

    type: str
    """The type in gRPC's metrics: `unary` or `server_stream`."""
    service: str
    method: str
    codes: dict[str, int]
    buckets: list[int]
    """Calls by duration: one bucket per bound in `BOUNDS`, and one for longer calls."""
    seconds: float


class Counts(TypedDict):
    """Counts of one worker since the previous collection."""

    calls: list[CallCounts]
    events: dict[str, dict[str, int]]
    """Counts by the name in `EVENTS` and by the label."""
    streams: int | None
    """Streams open in this worker; None if unchanged."""
    gauges: dict[str, float]
    """Updated gauges, by name in `GAUGES`."""
    advisories: dict[str, int]
    """Advisories by type, of the whole authority; empty if unchanged."""


class CallMetrics:
    """Counters for the calls of one method."""

    type: ClassVar[str] = "unary"

    def __init__(self, service: str, method: str) -> None:
        self._service = service
        self._method = method
        self._reset()
        self._codes.update(dict.fromkeys(ALERTED_CODES, 0))

    def _reset(self) -> None:
        self._codes: Counter[str] = Counter()
        self._buckets = [0] * (len(BOUNDS) + 1)
        self._seconds = 0.0

    def finished(self, code: str, seconds: float) -> None:
        """Count one call that ended with the status `code` after `seconds`; costs 0.5 µs."""
        self._codes[code] += 1
        self._buckets[bisect_left(BOUNDS, seconds)] += 1
        self._seconds += seconds

    def take(self) -> CallCounts | None:
        """Return and reset the counts; None without calls since, except for the first time."""
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
    """Counters for the calls of one server-streaming method."""

    type = "server_stream"

    def __init__(self, service: str, method: str) -> None:
        super().__init__(service, method)
        self.open = 0
        """Streams open now."""

    def streams(self, number: int) -> None:
        """Change the count of open streams; `number` is negative for ended streams."""
        self.open += number


class Metrics:
    """All counters of one worker; must be used in its event loop only."""

    def __init__(
        self,
        verdicts: Iterable[str] = (),
        refusals: Iterable[str] = (),
        connections: Iterable[str] = (),
    ) -> None:
        """The label values given here are reported from the start, as zero."""
        self._calls: dict[tuple[str, str], CallMetrics] = {}
        self._streams: dict[tuple[str, str], StreamMetrics] = {}
        self._streams_reported = 0
        self._events: dict[str, Counter[str]] = {
            VERIFICATIONS: Counter(dict.fromkeys(verdicts, 0)),
            REFUSALS: Counter(dict.fromkeys(refusals, 0)),
            CONNECTIONS: Counter(dict.fromkeys(connections, 0)),
            CACHE_EVENTS: Counter(),
        }
        self._gauges: dict[str, float] = {}
        self._advisories: dict[str, int] = {}

    def call(self, service: str, method: str) -> CallMetrics:
        """Return the counters of a method; look them up at registration, not per call."""
        return self._calls.setdefault((service, method), CallMetrics(service, method))

    def stream(self, service: str, method: str) -> StreamMetrics:
        """Return the counters of a server-streaming method."""
        return self._streams.setdefault((service, method), StreamMetrics(service, method))

    def verification(self, verdict: str, number: int = 1) -> None:
        """Count verdicts of one kind."""
        self._events[VERIFICATIONS][verdict] += number

    def refused(self, reason: str, calls: int = 1) -> None:
        """Count calls rejected as OVERLOADED."""
        self._events[REFUSALS][reason] += calls

    def connection_closed(self, reason: str) -> None:
        """Count a TLS connection that the server refused or closed."""
        self._events[CONNECTIONS][reason] += 1

    def count_cache_events(self, counts: Mapping[str, int]) -> None:
        """Add counts of record cache events."""
        self._events[CACHE_EVENTS].update(counts)

    def gauge(self, name: str, value: float) -> None:
        """Set a gauge."""
        self._gauges[name] = value

    def advisories(self, numbers: Mapping[str, int]) -> None:
        """Set the number of advisories of each type."""
        self._advisories = dict(numbers)

    def take(self) -> Counts | None:
        """Return and reset the counts; None if nothing changed."""
        streams = sum(stream.open for stream in self._streams.values())
        taken: Iterable[CallCounts | None] = (
            call.take() for call in (*self._calls.values(), *self._streams.values())
        )
        counts = Counts(
            calls=[call for call in taken if call],
            events={name: dict(counter) for name, counter in self._events.items() if counter},
            streams=None if streams == self._streams_reported else streams,
            gauges=self._gauges,
            advisories=self._advisories,
        )
        self._streams_reported = streams
        for counter in self._events.values():
            counter.clear()
        self._gauges = {}
        self._advisories = {}
        return counts if any(counts.values()) else None
