"""The page of usage: verifications per project, key and verdict, as plots and as CSV."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from datetime import datetime
from typing import Any, Final, NamedTuple

from starlette.responses import Response, StreamingResponse

from keyauthority import clock
from keyauthority.aio import AsyncListing
from keyauthority.console.evidence import DAY, HOUR, floor
from keyauthority.console.forms import Reader, Refused, filter_time
from keyauthority.console.plots import Plot, plot
from keyauthority.console.times import exact
from keyauthority.console.visits import UNPROCESSABLE, Visit, filtered
from keyauthority.model import UsageGranularity, UsageRow, VerdictCode

FILTERS: Final = ("project_id", "access_key", "verdict", "granularity", "start_time", "end_time")
KEYS_SHOWN: Final = 50
BARS: Final = {UsageGranularity.HOUR: 48, UsageGranularity.DAY: 30}
BARS_MAX: Final = 400
READ_SECONDS: Final = 0.5  # time for reading rows; a longer interval is shown in part
PAGE_SIZE: Final = 1000

_STEPS: Final = {UsageGranularity.HOUR: HOUR, UsageGranularity.DAY: DAY}
_COLUMNS: Final = (
    *("bucket_time", "project_id", "access_key", "verdict", "count", "cost", "last_used_time"),
)


class Interval(NamedTuple):
    """The hours or days that are asked for."""

    start: datetime
    end: datetime
    granularity: UsageGranularity

    @property
    def steps(self) -> int:
        """The number of hours or days."""
        return -(-(self.end - self.start) // _STEPS[self.granularity])


class Report(NamedTuple):
    """Verifications of an interval."""

    plot: Plot
    verdicts: Counter[VerdictCode]
    keys: list[tuple[str, str, int]]
    """Access key, project and count of the most used keys."""
    is_partial: bool
    """True if the interval has more rows than were read."""


async def show(visit: Visit) -> Response:
    """Show the verifications of an interval."""
    texts = {name: visit.query(name) for name in FILTERS}
    report, errors = await filtered(_report(visit, Reader(texts)))
    return visit.page(
        "usage.html",
        UNPROCESSABLE if errors else 200,
        texts=texts,
        errors=errors,
        report=report,
        query=visit.request.url.query,
        keys_shown=KEYS_SHOWN,
    )


async def download(visit: Visit) -> Response:
    """Return all rows of an interval as CSV, page by page."""
    reader = Reader({name: visit.query(name) for name in FILTERS})
    try:
        interval, verdict = _interval(visit, reader), reader.choice("verdict", VerdictCode)
        reader.finish()
    except Refused:
        return await show(visit)
    listing = _listing(visit, reader, interval)
    first = await listing.page()  # a refusal is an answer of its own
    return StreamingResponse(
        _csv(listing, first.items, first.next_page_token, verdict),
        media_type="text/csv",
        headers={"content-disposition": 'attachment; filename="usage.csv"'},
    )


def _interval(visit: Visit, reader: Reader) -> Interval:
    granularity = reader.choice("granularity", UsageGranularity) or UsageGranularity.HOUR
    start, end = reader.value("start_time", filter_time), reader.value("end_time", filter_time)
    step = _STEPS[granularity]
    last = end or visit.services.renderer.now()
    first = floor(start or last - step * (BARS[granularity] - 1), step)
    if first >= last:
        reader.refuse("end_time", "The end must be after the start.")
    elif (last - first) // step > BARS_MAX:
        reader.refuse("start_time", f"A plot has at most {BARS_MAX} bars: choose days.")
    return Interval(first, last, granularity)


def _listing(visit: Visit, reader: Reader, interval: Interval) -> AsyncListing[UsageRow]:
    return visit.authority.get_usage(
        reader.text("project_id"),
        access_key=reader.text("access_key"),
        start_time=interval.start,
        end_time=interval.end,
        granularity=interval.granularity,
        page_size=PAGE_SIZE,
    )


async def _report(visit: Visit, reader: Reader) -> Report:
    interval, verdict = _interval(visit, reader), reader.choice("verdict", VerdictCode)
    reader.finish()
    listing = _listing(visit, reader, interval)
    end = clock.monotonic() + READ_SECONDS
    rows: list[UsageRow] = []
    token = ""
    while True:
        page = await listing.page(token)
        rows += [row for row in page.items if verdict in (None, row.verdict)]
        token = page.next_page_token
        if not token or clock.monotonic() >= end:
            break
    return _summary(rows, interval, is_partial=bool(token))


def _summary(rows: list[UsageRow], interval: Interval, *, is_partial: bool) -> Report:
    verdicts: Counter[VerdictCode] = Counter()
    keys: Counter[tuple[str, str]] = Counter()
    for row in rows:
        verdicts[row.verdict] += row.count
        keys[row.access_key, row.project_id] += row.count
    step = _STEPS[interval.granularity]
    return Report(
        plot(rows, interval.start, step, interval.steps),
        verdicts,
        [(*names, count) for names, count in keys.most_common(KEYS_SHOWN)],
        is_partial,
    )


async def _csv(
    listing: AsyncListing[UsageRow],
    rows: Iterable[UsageRow],
    token: str,
    verdict: VerdictCode | None,
) -> AsyncIterator[str]:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(_COLUMNS)
    while True:
        writer.writerows(_cells(row) for row in rows if verdict in (None, row.verdict))
        yield text.getvalue()
        text.seek(0)
        text.truncate()
        if not token:
            return
        page = await listing.page(token)
        rows, token = page.items, page.next_page_token


def _cells(row: UsageRow) -> tuple[Any, ...]:
    return (
        exact(row.bucket_time),
        row.project_id,
        row.access_key,
        row.verdict.value,
        row.count,
        row.cost,
        exact(row.last_used_time),
    )
