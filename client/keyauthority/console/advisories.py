"""The page of advisories: keys that need attention, with the action to take."""

from __future__ import annotations

from typing import Any, Final

from starlette.responses import Response

from keyauthority import clock
from keyauthority.console.forms import Reader, filter_span
from keyauthority.console.keys import query_with
from keyauthority.console.visits import UNPROCESSABLE, Visit, filtered
from keyauthority.model import AdvisoryType
from keyauthority.results import Advisory, Page

FILTERS: Final = ("project_id", "type", "dormant_after", "expires_within")
SHOWN: Final = 100  # advisories on one page
READ_SECONDS: Final = 0.5  # time for calls that find few; the page then leads to the rest


async def show(visit: Visit) -> Response:
    """List the advisories that match the filters, oldest key first."""
    texts = {name: visit.query(name) for name in FILTERS}
    found, errors = await filtered(_find(visit, Reader(texts)))
    query = {name: text for name, text in texts.items() if text}
    return visit.page(
        "advisories.html",
        UNPROCESSABLE if errors else 200,
        texts=texts,
        errors=errors,
        found=found or Page(()),
        is_first=not visit.query("page_token"),
        query_with=lambda **changes: query_with(query, changes),
    )


def _filter(reader: Reader) -> dict[str, Any]:
    """Return the arguments of ListAdvisories that the query asks for."""
    chosen = {
        "project_id": reader.text("project_id"),
        "types": list(filter(None, [reader.choice("type", AdvisoryType)])),
        "dormant_after": reader.value("dormant_after", filter_span),
        "expires_within": reader.value("expires_within", filter_span),
    }
    reader.finish()
    return chosen


async def _find(visit: Visit, reader: Reader) -> Page[Advisory]:
    """Return a page; calls that return few are repeated for some time."""
    chosen = _filter(reader)
    items: list[Advisory] = []
    token, end = visit.query("page_token"), clock.monotonic() + READ_SECONDS
    while True:
        room = SHOWN - len(items)
        page = await visit.authority.list_advisories(page_size=room, **chosen).page(token)
        items += page.items
        token = page.next_page_token
        if not token or len(items) >= SHOWN or clock.monotonic() >= end:
            return Page(tuple(items), token)
