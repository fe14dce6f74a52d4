"""Times and durations of the model <-> proto, exact to the microsecond.

Nanoseconds are truncated, so that a time is never later, and a duration never longer, than sent.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final, overload

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from keyauthority.clock import EPOCH

_DAY_SECONDS: Final = 86_400
_FIRST_SECOND: Final = -62_135_596_800  # 0001-01-01T00:00:00Z, the first that Timestamp allows
_LAST_SECOND: Final = 253_402_300_799  # 9999-12-31T23:59:59Z, the last
_SPAN_SECONDS_MAX: Final = 315_576_000_000  # 10,000 years, the most that Duration allows
_NANOS: Final = 1_000_000_000


@overload
def timestamp(time: datetime) -> Timestamp: ...
@overload
def timestamp(time: None) -> None: ...
@overload
def timestamp(time: datetime | None) -> Timestamp | None: ...
def timestamp(time: datetime | None) -> Timestamp | None:
    """Return the time as a proto; None for None. Raises ValueError for a time without a zone."""
    if time is None:
        return None
    if time.tzinfo is None:
        raise ValueError("a time needs its zone: datetime.now(UTC), not datetime.now()")
    since = time - EPOCH
    return Timestamp(
        seconds=since.days * _DAY_SECONDS + since.seconds, nanos=since.microseconds * 1000
    )


def to_datetime(proto: Timestamp) -> datetime:
    """Return the time in UTC. Raises ValueError outside the years 1 to 9999, or for bad nanos."""
    if not _FIRST_SECOND <= proto.seconds <= _LAST_SECOND:
        raise ValueError("a time lies in the years 1 to 9999")
    if not 0 <= proto.nanos < _NANOS:
        raise ValueError("the nanos of a time are 0 to 999,999,999")
    return EPOCH + timedelta(seconds=proto.seconds, microseconds=proto.nanos // 1000)


def duration(span: timedelta | None) -> Duration | None:
    """Return the duration as a proto; None for None. Raises ValueError beyond 10,000 years."""
    if span is None:
        return None
    seconds, microseconds = divmod(abs(span), timedelta(seconds=1))
    if seconds > _SPAN_SECONDS_MAX:
        raise ValueError("a span is at most 10,000 years")
    sign = -1 if span < timedelta(0) else 1
    return Duration(seconds=sign * seconds, nanos=sign * microseconds.microseconds * 1000)


def to_timedelta(proto: Duration) -> timedelta:
    """Return the duration. Raises ValueError beyond 10,000 years, or for bad nanos or two signs."""
    if abs(proto.seconds) > _SPAN_SECONDS_MAX:
        raise ValueError("a span is at most 10,000 years")
    if abs(proto.nanos) >= _NANOS or proto.seconds * proto.nanos < 0:
        raise ValueError("the nanos of a span are below 1,000,000,000 and have its sign")
    sign = -1 if proto.nanos < 0 else 1
    return timedelta(seconds=proto.seconds, microseconds=sign * (abs(proto.nanos) // 1000))
