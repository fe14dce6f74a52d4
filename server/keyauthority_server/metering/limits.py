"""Rate limits and quotas: the counters that a verification spends from, and the resulting verdict.

Counters belong to the lineage of a key, so a rotated key continues its predecessor's; those of a
project's rate limit belong to the project. Their names contain the period: after a change of the
period a limit starts from zero in that period's current window; after a change of the number it
keeps its count. The store spends (`store.counters`); nothing here reads a clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final, NamedTuple, Self

from keyauthority.model import (
    Project,
    Quota,
    QuotaPeriod,
    RateLimit,
    Standing,
    Verdict,
    VerdictCode,
)
from keyauthority_server.store.counters import Counter, CounterState, SpendResult
from keyauthority_server.store.sql.row_codec import MICROSECOND, microseconds, time_from
from keyauthority_server.store.types import StoredKey

_KEY: Final = "key_standing"
_PROJECT: Final = "project_standing"
_QUOTA: Final = "quota_standing"
_DAY: Final = timedelta(days=1) // MICROSECOND
_NO_END: Final = datetime.max.replace(tzinfo=UTC)

Reset = Callable[[int], datetime | None]
"""Returns the end of the window that starts at this time, in microseconds since the Unix epoch."""


class Limit(NamedTuple):
    """A limit in force, its current counter, and its standing in the verdict."""

    counter: Counter
    denial: VerdictCode
    standing: str
    """The field of a verdict, and of a response, that shows it."""
    reset: Reset
    end: datetime | None
    """The end of the counter's window; None if it has no end."""


class LimitsInForce(NamedTuple):
    """The limits of a key record, until one of their windows ends."""

    limits: tuple[Limit, ...]
    counters: tuple[Counter, ...]
    project: Project | None
    """The record of the project that they include the limit of."""
    start: datetime
    """The latest start of a window."""
    end: datetime
    """The earliest end of a window."""

    @classmethod
    def of(cls, stored: StoredKey, project: Project | None, now: datetime) -> Self:
        """Return the limits of a key that has some."""
        limits = limits_of(stored, project, now)
        counters = tuple(limit.counter for limit in limits)
        start = max(time_from(counter.start) for counter in counters)
        end = min(limit.end or _NO_END for limit in limits)
        return cls(limits, counters, project, start, end)

    def hold(self, project: Project | None, now: datetime) -> bool:
        """True if the key with this record of its project has the same limits now."""
        return project is self.project and self.start <= now < self.end


def limits_of(stored: StoredKey, project: Project | None, now: datetime) -> tuple[Limit, ...]:
    """Return the limits of a key in the order of denial: rate limits, then the quota."""
    limits = []
    time = microseconds(now)
    if stored.key.rate_limit is not None:
        limits.append(_rate(stored.key.rate_limit, stored.lineage, _KEY, time))
    if project is not None and project.rate_limit is not None:
        limits.append(_rate(project.rate_limit, project.project_id, _PROJECT, time))
    if stored.key.quota is not None:
        limits.append(_quota(stored.key.quota, stored.lineage, now))
    return tuple(limits)


def denials_of(limits: tuple[Limit, ...], result: SpendResult) -> Sequence[VerdictCode]:
    """Return the denials by the counters that had no room, each once, in order."""
    exhausted = [
        limit.denial for limit, state in zip(limits, result, strict=True) if not state.fits
    ]
    return tuple(dict.fromkeys(exhausted)) if exhausted else ()


def left_of(limit: Limit, state: CounterState) -> tuple[int, datetime | None]:
    """Return the units left in a limit's window, and the end of the window."""
    counter, (start, used, _) = limit.counter, state
    left = max(counter.limit - used, 0)  # the limit may have been lowered below the used units
    return left, limit.end if start == counter.start else limit.reset(start)


def with_limits(
    verdict: Verdict, limits: tuple[Limit, ...], result: SpendResult, *, explain: bool
) -> Verdict:
    """Return the verdict after the spend: with standings, and denied if a counter had no room."""
    standings: dict[str, Any] = {
        limit.standing: Standing(limit.counter.limit, *left_of(limit, state))
        for limit, state in zip(limits, result, strict=True)
    }
    denials = denials_of(limits, result)
    code = verdict.code
    if denials and code is VerdictCode.VALID:
        code = denials[0]
    failed = (*verdict.failed, *denials) if explain else verdict.failed
    return verdict._replace(code=code, failed=failed, **standings)


def _rate(limit: RateLimit, owner: str, standing: str, time: int) -> Limit:
    period = limit.period // MICROSECOND
    begin = time - time % period
    counter = Counter(f"{owner} rate {period}", begin, limit.limit, period)
    reset = partial(_after, period)
    return Limit(counter, VerdictCode.RATE_LIMITED, standing, reset, reset(begin))


def _quota(quota: Quota, lineage: str, now: datetime) -> Limit:
    start, reset, period = _CALENDAR[quota.period]
    name = f"{lineage} quota {quota.period.value}"
    counter = Counter(name, start(now), quota.limit, period)
    return Limit(counter, VerdictCode.QUOTA_EXCEEDED, _QUOTA, reset, reset(counter.start))


def _after(period: int, start: int) -> datetime:
    return time_from(start + period)


def _day(now: datetime) -> int:
    time = microseconds(now)
    return time - time % _DAY


def _month(now: datetime) -> int:
    return microseconds(datetime(now.year, now.month, 1, tzinfo=UTC))


def _next_month(start: int) -> datetime:
    return (time_from(start) + timedelta(days=31)).replace(day=1)  # no month has more days


def _never(start: int) -> None:
    return None


_CALENDAR: Final[dict[QuotaPeriod, tuple[Callable[[datetime], int], Reset, int]]] = {
    QuotaPeriod.DAY: (_day, partial(_after, _DAY), _DAY),
    QuotaPeriod.MONTH: (_month, _next_month, 31 * _DAY),
    QuotaPeriod.TOTAL: (lambda now: 0, _never, 0),
}
