"""Conversion of times and durations: exact to the microsecond, range checked."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given

from keyauthority.convert import duration, timestamp, to_datetime, to_timedelta
from tests.client.strategies import spans, times


@given(times)
def test_time_roundtrips_to_the_microsecond(time: datetime) -> None:
    """In all years that datetime can represent."""
    assert to_datetime(timestamp(time)) == time


@given(times)
def test_timestamp_equals_protobufs_own(time: datetime) -> None:
    """Other languages read the same proto."""
    expected = Timestamp()
    expected.FromDatetime(time)

    assert timestamp(time) == expected


@given(spans)
def test_duration_roundtrips_to_the_microsecond(given_span: timedelta) -> None:
    """Negative ones included."""
    proto = duration(given_span)

    assert proto is not None
    assert to_timedelta(proto) == given_span


def test_time_of_another_zone_is_the_same_instant() -> None:
    """A zone changes the notation only."""
    paris = datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=1)))

    assert timestamp(paris) == timestamp(datetime(2026, 1, 1, tzinfo=UTC))


def test_naive_time_is_refused() -> None:
    """Its zone is never guessed."""
    with pytest.raises(ValueError, match="zone"):
        timestamp(datetime(2026, 1, 1))  # noqa: DTZ001 - the refused value


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
def test_time_out_of_range_is_refused(seconds: int, nanos: int) -> None:
    """Years before 1 or after 9999 and invalid nanos are a ValueError."""
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
def test_duration_out_of_range_is_refused(seconds: int, nanos: int) -> None:
    """Over 10,000 years, invalid nanos and mixed signs are a ValueError."""
    with pytest.raises(ValueError, match="span"):
        to_timedelta(Duration(seconds=seconds, nanos=nanos))


def test_nanoseconds_are_truncated_towards_zero() -> None:
    """No time becomes later and no duration longer."""
    assert to_datetime(Timestamp(nanos=1999)) == datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=UTC)
    assert to_timedelta(Duration(nanos=1999)) == timedelta(microseconds=1)
    assert to_timedelta(Duration(nanos=-1999)) == timedelta(microseconds=-1)


def test_unset_time_stays_unset() -> None:
    """None is absence, not the epoch or zero."""
    assert timestamp(None) is None
    assert duration(None) is None
