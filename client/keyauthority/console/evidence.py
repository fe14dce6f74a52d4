"""Verifications of a key: as plots, as sums before a revocation, and during a rotation."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from keyauthority.console.plots import Plot, plot
from keyauthority.console.visits import Visit
from keyauthority.model import Key, UsageGranularity, UsageRow, VerdictCode

HOUR: Final = timedelta(hours=1)
DAY: Final = timedelta(days=1)
WEEK: Final = timedelta(days=7)
HOURS_SHOWN: Final = 48
DAYS_SHOWN: Final = 30
ROWS: Final = 1000  # above 48 hours or 30 days with every verdict

Counts = dict[VerdictCode, int]


class Usage(NamedTuple):
    """Verifications of one key."""

    hours: Plot
    days: Plot
    last_day: Counts
    """The last 24 hours and the rest of the hour before them, by verdict."""
    last_week: Counts
    """The last 7 days and the rest of the day before them, by verdict."""


class Handover(NamedTuple):
    """Valid verifications of a rotated key and its successor in the last 24 hours."""

    previous: str
    """The access key of the rotated key."""
    successor: str
    previous_count: int
    successor_count: int
    end: datetime | None
    """The end of the overlap; None if it is over."""

    @property
    def total(self) -> int:
        """Verifications of both keys."""
        return self.previous_count + self.successor_count


async def usage_of(visit: Visit, access_key: str) -> Usage | None:
    """Return the verifications of a key, or None if the operator may not read usage."""
    now = visit.services.renderer.now()
    first_hour = floor(now, HOUR) - HOUR * (HOURS_SHOWN - 1)
    first_day = floor(now, DAY) - DAY * (DAYS_SHOWN - 1)
    read = await visit.allowed(
        _gather(
            visit,
            access_key,
            (first_hour, UsageGranularity.HOUR),
            (first_day, UsageGranularity.DAY),
        )
    )
    if read is None:
        return None
    hours, days = read
    return Usage(
        plot(hours, first_hour, HOUR, HOURS_SHOWN),
        plot(days, first_day, DAY, DAYS_SHOWN),
        sums(hours, floor(now, HOUR) - DAY),
        sums(days, floor(now, DAY) - WEEK),
    )


async def _gather(
    visit: Visit, access_key: str, *spans: tuple[datetime, UsageGranularity]
) -> tuple[tuple[UsageRow, ...], ...]:
    pages = await asyncio.gather(
        *(
            visit.authority.get_usage(
                access_key=access_key, start_time=start, granularity=granularity, page_size=ROWS
            ).page()
            for start, granularity in spans
        )
    )
    return tuple(page.items for page in pages)


async def handover_of(visit: Visit, key: Key) -> Handover | None:
    """Return the share of both secrets, for a key that was rotated or made by a rotation.

    None for other keys, and if the operator may not read usage.
    """
    previous = key.access_key if key.successor_access_key else key.predecessor_access_key
    if not previous:
        return None
    successor = key.successor_access_key or key.access_key
    now = visit.services.renderer.now()
    start = floor(now, HOUR) - DAY
    hourly = UsageGranularity.HOUR
    read = await visit.allowed(
        asyncio.gather(
            _gather(visit, previous, (start, hourly)), _gather(visit, successor, (start, hourly))
        )
    )
    if read is None:
        return None
    old, new = (sums(rows[0], start)[VerdictCode.VALID] for rows in read)
    end = key.supersede_time
    if previous != key.access_key:
        before = await visit.allowed(visit.authority.get_key(previous))
        end = before.supersede_time if before else None
    return Handover(previous, successor, old, new, end if end and end > now else None)


def sums(rows: tuple[UsageRow, ...], start: datetime) -> Counter[VerdictCode]:
    """Return the counts by verdict of the rows from `start` on."""
    counts: Counter[VerdictCode] = Counter()
    for row in rows:
        if row.bucket_time >= start:
            counts[row.verdict] += row.count
    return counts


def floor(time: datetime, step: timedelta) -> datetime:
    """Return the start of the hour or day, in UTC, as the authority counts."""
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return time - (time - epoch) % step
