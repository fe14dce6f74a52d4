"""Pages that show keys: the list of a project with its filters, and one key with its history."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode

from starlette.responses import RedirectResponse, Response

from keyauthority.aio import AsyncListing
from keyauthority.cli import parameters
from keyauthority.console import evidence
from keyauthority.console.audit import newest_events
from keyauthority.console.forms import Reader, Refused, filter_span
from keyauthority.console.search import MATCHES, Found, search
from keyauthority.console.visits import SEE_OTHER, UNPROCESSABLE, Visit
from keyauthority.model import Key, KeyKind, KeyMode, KeyState
from keyauthority.token import parse

FILTERS: Final = ("mode", "state", "kind", "q", "label", "expires_within", "unused_for")
NEVER: Final = "ever"
"""The value of `unused_for` for keys that were never used."""


async def show_all(visit: Visit) -> Response:
    """List the keys of a project that match the filters, oldest first."""
    project_id = visit.path("project_id")
    texts = {name: visit.query(name) for name in FILTERS}
    token = parse(texts["q"])
    if token is not None:  # a pasted secret: go on without it
        return RedirectResponse(f"/keys/{token.access_key}", SEE_OTHER)
    project, found = await visit.project(project_id), Found()
    errors: Mapping[str, list[str]] = {}
    try:
        chosen = _filter(Reader(texts), visit)
    except Refused as refused:
        errors = refused.errors
    else:
        found = await _find(visit, project_id, chosen, texts["q"])
    query = {name: text for name, text in texts.items() if text}
    return visit.page(
        "keys.html",
        UNPROCESSABLE if errors else 200,
        project=project,
        project_id=project_id,
        texts=texts,
        errors=errors,
        found=found,
        is_first=not visit.query("page_token"),
        query_with=lambda **changes: query_with(query, changes),
    )


async def _find(visit: Visit, project_id: str, chosen: Mapping[str, Any], text: str) -> Found:
    def listing(page_size: int) -> AsyncListing[Key]:
        return visit.authority.list_keys(project_id, page_size=page_size, **chosen)

    if text:
        return await search(listing, text, visit.query("page_token"))
    page = await listing(MATCHES).page(visit.query("page_token"))
    return Found(list(page.items), page.next_page_token)


def _filter(reader: Reader, visit: Visit) -> dict[str, Any]:
    """Return the filter of ListKeys that the query asks for."""
    now = visit.services.renderer.now()
    chosen: dict[str, Any] = {
        "mode": reader.choice("mode", KeyMode),
        "state": reader.choice("state", KeyState),
        "kind": reader.choice("kind", KeyKind),
        "labels": dict(filter(None, [reader.value("label", parameters.pair)])),
    }
    within = reader.value("expires_within", filter_span)
    if within is not None:
        chosen["expires_before"] = now + within
    if reader.text("unused_for") == NEVER:
        chosen["never_used"] = True
    else:
        unused = reader.value("unused_for", filter_span)
        if unused is not None:
            chosen["used_before"] = now - unused
    reader.finish()
    return chosen


def query_with(query: Mapping[str, str], changes: Mapping[str, str]) -> str:
    """Return the query of a link: the present filters with some changed."""
    return "?" + urlencode({name: text for name, text in {**query, **changes}.items() if text})


async def show(visit: Visit) -> Response:
    """Show a key: its record, its verifications and its changes."""
    access_key = visit.path("access_key")
    key, usage, newest = await asyncio.gather(
        visit.authority.get_key(access_key),
        evidence.usage_of(visit, access_key),
        visit.allowed(newest_events(visit, access_key=access_key)),
    )
    project = await visit.project(key.project_id) if key.project_id else None
    return visit.page(
        "key.html",
        key=key,
        project=project,
        usage=usage,
        handover=await evidence.handover_of(visit, key),
        newest=newest,
    )
