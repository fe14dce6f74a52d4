"""Times and spans: exact to the microsecond, refused out of range."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given

from keyauthority.convert import duration, timestamp, to_datetime, to_timedelta
from tests.client.strategies import spans, times


@given(times)
def test_a_time_there_and_back_is_the_same_to_the_microsecond(time: datetime) -> None:
    """Nothing of a time is lost on the wire, in all the years that datetime has."""
    assert to_datetime(timestamp(time)) == time


@given(times)
def test_a_timestamp_is_what_protobuf_itself_makes(time: datetime) -> None:
    """The proto of a time is the one that every other language reads."""
    expected = Timestamp()
    expected.FromDatetime(time)

    assert timestamp(time) == expected


@given(spans)
def test_a_span_there_and_back_is_the_same_to_the_microsecond(given_span: timedelta) -> None:
    """Nothing of a span is lost on the wire, negative ones included."""
    proto = duration(given_span)

    assert proto is not None
    assert to_timedelta(proto) == given_span


def test_a_time_of_another_zone_is_sent_as_the_same_moment() -> None:
    """A zone is only a way to write a moment."""
    paris = datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=1)))

    assert timestamp(paris) == timestamp(datetime(2026, 1, 1, tzinfo=UTC))


def test_a_time_without_zone_is_refused() -> None:
    """A time that might mean any of 24 is not guessed at."""
    with pytest.raises(ValueError, match="zone"):
        timestamp(datetime(2026, 1, 1))  # noqa: DTZ001 - what is refused


@pytest.mark.parametrize(
    ("seconds", "nanos"),
    [
        (-62_135_596_801, 0),
        (253_402_300_800, 0),
        (-(2**63), 0),
        (2**63 - 1, 0),
        (0, -1),
        (0, 1_000_000_000),
        (0, -(2**31)),
        (0, 2**31 - 1),
    ],
)
def test_a_time_out_of_range_is_refused(seconds: int, nanos: int) -> None:
    """Years before 1 and after 9999, and nanos that are none, are a ValueError."""
    with pytest.raises(ValueError, match="time"):
        to_datetime(Timestamp(seconds=seconds, nanos=nanos))


@pytest.mark.parametrize(
    ("seconds", "nanos"),
    [
        (315_576_000_001, 0),
        (-315_576_000_001, 0),
        (2**63 - 1, 0),
        (-(2**63), 0),
        (0, 1_000_000_000),
        (0, -1_000_000_000),
        (1, -1),
        (-1, 1),
    ],
)
def test_a_span_out_of_range_is_refused(seconds: int, nanos: int) -> None:
    """More than 10,000 years, bad nanos and mixed signs are a ValueError."""
    with pytest.raises(ValueError, match="span"):
        to_timedelta(Duration(seconds=seconds, nanos=nanos))


def test_nanoseconds_are_cut_off_towards_zero() -> None:
    """What is finer than a microsecond never makes a time later or a span longer."""
    assert to_datetime(Timestamp(nanos=1999)) == datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=UTC)
    assert to_timedelta(Duration(nanos=1999)) == timedelta(microseconds=1)
    assert to_timedelta(Duration(nanos=-1999)) == timedelta(microseconds=-1)


def test_what_is_not_set_stays_unset() -> None:
    """None is the absence of a time or span, not the epoch or zero."""
    assert timestamp(None) is None
    assert duration(None) is None
