"""The page of the audit log: changes with their actors, filtered, the newest first."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final, NamedTuple
from urllib.parse import urlencode

from starlette.responses import Response

from keyauthority.aio import AsyncListing
from keyauthority.console.forms import Reader, filter_time
from keyauthority.console.times import exact
from keyauthority.console.visits import UNPROCESSABLE, Visit, filtered
from keyauthority.results import Event

FILTERS: Final = ("project_id", "access_key", "actor", "start_time", "end_time")
SHOWN: Final = 100  # events on one page
READ: Final = 300  # events of one window: some 30 ms
CALLS: Final = 5  # pages of one window; with an actor they may be short

# The API lists the oldest first. The newest are found by windows of time before the end.
_WINDOWS: Final = (
    *(timedelta(minutes=1), timedelta(minutes=10), timedelta(hours=1), timedelta(hours=6)),
    *(timedelta(days=1), timedelta(days=7), timedelta(days=30), timedelta(days=365)),
    None,
)
_DAY: Final = 4  # the first window that is tried


class Newest(NamedTuple):
    """The newest events that match, and whether older ones may exist."""

    events: tuple[Event, ...] = ()
    has_older: bool = False


async def show(visit: Visit) -> Response:
    """List the changes that match the filters, the newest first."""
    texts = {name: visit.query(name) for name in FILTERS}
    found, errors = await filtered(_find(visit, Reader(texts)))
    newest = found or Newest()
    older = ""
    if newest.has_older and newest.events:  # the same microsecond again, so that none is missing
        end = newest.events[-1].time + timedelta(microseconds=1)
        older = urlencode(
            {**{name: text for name, text in texts.items() if text}, "end_time": exact(end)}
        )
    return visit.page(
        "audit.html",
        UNPROCESSABLE if errors else 200,
        texts=texts,
        errors=errors,
        newest=newest,
        older=older,
    )


async def _find(visit: Visit, reader: Reader) -> Newest:
    start, end = reader.value("start_time", filter_time), reader.value("end_time", filter_time)
    reader.finish()
    return await newest_events(
        visit,
        reader.text("project_id"),
        access_key=reader.text("access_key"),
        actor=reader.text("actor"),
        start=start,
        end=end,
    )


async def newest_events(
    visit: Visit,
    project_id: str = "",
    *,
    access_key: str = "",
    actor: str = "",
    start: datetime | None = None,
    end: datetime | None = None,
) -> Newest:
    """Return the newest events in [start, end) that match the filters."""
    until = end or visit.services.renderer.now()

    async def read(window: timedelta | None) -> tuple[list[Event], bool]:
        after = max(filter(None, (start, until - window if window else None)), default=None)
        listing = visit.authority.list_events(
            project_id,
            access_key=access_key,
            actor=actor,
            start_time=after,
            end_time=end,
            page_size=READ,
        )
        return await _read(listing)

    place = len(_WINDOWS) - 1 if access_key else _DAY
    events, is_cut = await read(_WINDOWS[place])
    while is_cut and place > 0:
        place -= 1
        events, is_cut = await read(_WINDOWS[place])
        if not is_cut:
            return _newest(events, has_older=True)
    while not is_cut and len(events) < SHOWN and place < len(_WINDOWS) - 1:
        place += 1
        wider, overflows = await read(_WINDOWS[place])
        if overflows:
            return _newest(events, has_older=True)
        events = wider
    return _newest(events, has_older=place < len(_WINDOWS) - 1)


def _newest(events: list[Event], *, has_older: bool) -> Newest:
    newest = tuple(reversed(events))[:SHOWN]
    return Newest(newest, has_older or len(events) > SHOWN)


async def _read(listing: AsyncListing[Event]) -> tuple[list[Event], bool]:
    """Return the events of a window, and whether it holds more than were read."""
    events: list[Event] = []
    token = ""
    for _ in range(CALLS):
        page = await listing.page(token)
        events += page.items
        token = page.next_page_token
        if not token or len(events) >= READ:
            break
    return events, bool(token)
