"""The page of operator keys: their rights and confinement, and the form of a new one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from keyauthority.console.creation import create_key
from keyauthority.console.forms import Reader
from keyauthority.console.projects import PAGE_SIZE
from keyauthority.console.visits import FormPage, Visit
from keyauthority.model import KeyKind


async def show_all(visit: Visit) -> Response:
    """List the operator keys, oldest first, with the form of a new one."""
    return await _list(visit).show()


async def create(visit: Visit) -> Response:
    """Create an operator key and show its secret."""

    async def action() -> Response:
        return await create_key(visit, Reader(visit.texts), KeyKind.OPERATOR)

    return await _list(visit).submit(action)


def _list(visit: Visit) -> FormPage:
    async def load() -> Mapping[str, Any]:
        listing = visit.authority.list_keys(kind=KeyKind.OPERATOR, page_size=PAGE_SIZE)
        return {"page": await visit.allowed(listing.page(visit.query("page_token")))}

    return FormPage(visit, "operators.html", load, {"page": None})
