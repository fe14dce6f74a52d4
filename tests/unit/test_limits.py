"""Limits: windows, counter names, and their effect on a verdict."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from keyauthority.decision import has_limits
from keyauthority.model import (
    Key,
    KeyKind,
    KeyMode,
    Project,
    Quota,
    QuotaPeriod,
    RateLimit,
    Standing,
    Verdict,
    VerdictCode,
)
from keyauthority_server.metering.limits import LimitsInForce, limits_of, with_limits
from keyauthority_server.store.counters import CounterState
from keyauthority_server.store.types import StoredKey

NOW = datetime(2026, 2, 28, 23, 59, 59, 999_999, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
LINEAGE = "KA000000000000000001"
VALID = Verdict(code=VerdictCode.VALID)


def held(rate_limit: RateLimit | None = None, quota: Quota | None = None) -> StoredKey:
    """Return a rotated key with these limits."""
    key = Key(
        access_key="KA000000000000000002",
        project_id="p",
        mode=KeyMode.LIVE,
        kind=KeyKind.SECRET,
        rate_limit=rate_limit,
        quota=quota,
        create_time=NOW,
        update_time=NOW,
        revision=1,
    )
    return StoredKey(key, b"", 1, LINEAGE)


def project(rate_limit: RateLimit | None = None) -> Project:
    """Return a project with this limit."""
    return Project(
        project_id="p", rate_limit=rate_limit, create_time=NOW, update_time=NOW, revision=1
    )


def test_key_without_limits_spends_from_no_counter() -> None:
    """Neither key nor project has a limit, so no counter is read."""
    assert not has_limits(held().key, project())
    assert not has_limits(held().key, None)
    assert () == limits_of(held(), project(), NOW)


@pytest.mark.parametrize(
    ("key", "owner"),
    [
        (held(RateLimit(0, MINUTE)), project()),
        (held(quota=Quota(0, QuotaPeriod.TOTAL)), project()),
        (held(), project(RateLimit(0, MINUTE))),
    ],
)
def test_limit_of_zero_is_a_limit(key: StoredKey, owner: Project) -> None:
    """0 differs from unset."""
    assert has_limits(key.key, owner)
    assert [0] == [limit.counter.limit for limit in limits_of(key, owner, NOW)]


@pytest.mark.parametrize(
    ("period", "start"),
    [
        (timedelta(seconds=1), datetime(2026, 2, 28, 23, 59, 59, tzinfo=UTC)),
        (MINUTE, datetime(2026, 2, 28, 23, 59, tzinfo=UTC)),
        (timedelta(days=1), datetime(2026, 2, 28, tzinfo=UTC)),
    ],
)
def test_rate_windows_are_aligned_to_the_epoch(period: timedelta, start: datetime) -> None:
    """A window begins at a multiple of its period since the Unix epoch."""
    (limit,) = limits_of(held(RateLimit(5, period)), None, NOW)
    assert (start, start + period) == _window(limit.counter.start, limit.reset)
    (odd,) = limits_of(held(RateLimit(5, timedelta(seconds=7))), None, NOW)
    assert odd.counter.start % 7_000_000 == 0
    assert 0 <= (NOW - EPOCH) // timedelta(microseconds=1) - odd.counter.start < 7_000_000


@pytest.mark.parametrize(
    ("period", "now", "start", "end"),
    [
        (QuotaPeriod.DAY, NOW, datetime(2026, 2, 28, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC)),
        (
            QuotaPeriod.MONTH,
            NOW,
            datetime(2026, 2, 1, tzinfo=UTC),
            datetime(2026, 3, 1, tzinfo=UTC),
        ),
        (
            QuotaPeriod.MONTH,
            datetime(2028, 12, 31, 5, tzinfo=UTC),
            datetime(2028, 12, 1, tzinfo=UTC),
            datetime(2029, 1, 1, tzinfo=UTC),
        ),
        (QuotaPeriod.TOTAL, NOW, EPOCH, None),
    ],
)
def test_quota_windows_follow_the_calendar(
    period: QuotaPeriod, now: datetime, start: datetime, end: datetime | None
) -> None:
    """A quota counts from the start of the UTC day or month, or forever."""
    (limit,) = limits_of(held(quota=Quota(5, period)), None, now)
    assert (start, end) == _window(limit.counter.start, limit.reset)


def _window(start: int, reset: object) -> tuple[datetime, datetime | None]:
    assert callable(reset)
    return EPOCH + timedelta(microseconds=start), reset(start)


def test_counters_belong_to_lineage_and_project() -> None:
    """No name holds the successor's access key; limits of different kinds share none."""
    quota, rate = Quota(5, QuotaPeriod.DAY), RateLimit(5, MINUTE)
    names = [limit.counter.name for limit in limits_of(held(rate, quota), project(rate), NOW)]
    assert [f"{LINEAGE} rate 60000000", "p rate 60000000", f"{LINEAGE} quota day"] == names


def test_changed_number_keeps_the_counter_and_changed_period_does_not() -> None:
    """A raised limit continues its count; another period starts at zero."""

    def name(limit: RateLimit) -> str:
        return limits_of(held(limit), None, NOW)[0].counter.name

    assert name(RateLimit(5, MINUTE)) == name(RateLimit(9, MINUTE))
    assert name(RateLimit(5, MINUTE)) != name(RateLimit(5, 2 * MINUTE))


def test_limits_hold_until_the_first_window_ends() -> None:
    """They hold neither before nor after their windows, nor with another record of the project."""
    owner = project(RateLimit(5, 2 * MINUTE))
    stored = held(RateLimit(5, MINUTE), Quota(5, QuotaPeriod.TOTAL))
    limits = LimitsInForce.of(stored, owner, NOW)
    minute, microsecond = NOW.replace(second=0, microsecond=0), timedelta(microseconds=1)
    assert limits.hold(owner, NOW)
    assert limits.hold(owner, minute)
    assert not limits.hold(owner, minute - microsecond)
    assert not limits.hold(owner, NOW + microsecond)
    assert not limits.hold(replace(owner, suspended=True), NOW)


def test_quota_without_an_end_holds_for_ever() -> None:
    """The counter of a total quota has one window."""
    limits = LimitsInForce.of(held(quota=Quota(5, QuotaPeriod.TOTAL)), None, NOW)
    assert limits.hold(None, EPOCH)
    assert limits.hold(None, NOW + timedelta(days=300_000))


R, Q = VerdictCode.RATE_LIMITED, VerdictCode.QUOTA_EXCEEDED


@pytest.mark.parametrize(
    ("fits", "code", "failed"),
    [
        ((True, True, True), VerdictCode.VALID, ()),
        ((False, True, True), R, (R,)),
        ((True, False, True), R, (R,)),
        ((True, True, False), Q, (Q,)),
        ((False, False, False), R, (R, Q)),
    ],
)
def test_first_exhausted_limit_is_the_verdict(
    fits: tuple[bool, bool, bool], code: VerdictCode, failed: tuple[VerdictCode, ...]
) -> None:
    """Rate limits precede the quota; `failed` names each denial once, in order."""
    rate = RateLimit(5, MINUTE)
    limits = limits_of(held(rate, Quota(5, QuotaPeriod.DAY)), project(rate), NOW)
    result = tuple(
        CounterState(limit.counter.start, 4, fit) for limit, fit in zip(limits, fits, strict=True)
    )
    told = with_limits(VALID, limits, result, explain=False)
    assert (code, ()) == (told.code, told.failed)
    assert failed == with_limits(VALID, limits, result, explain=True).failed


def test_denial_before_the_limits_stays_the_verdict() -> None:
    """With explain a limit is appended to the earlier failures."""
    limits = limits_of(held(RateLimit(0, MINUTE)), None, NOW)
    expired = Verdict(code=VerdictCode.EXPIRED, failed=(VerdictCode.EXPIRED,))
    told = with_limits(expired, limits, (CounterState(0, 0, False),), explain=True)
    assert (VerdictCode.EXPIRED, (VerdictCode.EXPIRED, R)) == (told.code, told.failed)


def test_standings_show_the_window_that_was_spent_in() -> None:
    """A limit lowered below its usage has 0 left; the reset is the newest window's."""
    rate = RateLimit(5, MINUTE)
    limits = limits_of(held(rate, Quota(9, QuotaPeriod.TOTAL)), project(rate), NOW)
    late = limits[0].counter.start + 60_000_000
    told = with_limits(
        VALID,
        limits,
        (CounterState(late, 2, True), CounterState(0, 7, True), CounterState(0, 1, True)),
        explain=False,
    )
    assert Standing(5, 3, datetime(2026, 3, 1, 0, 1, tzinfo=UTC)) == told.key_standing
    assert Standing(5, 0, EPOCH + MINUTE) == told.project_standing
    assert Standing(9, 8, None) == told.quota_standing
