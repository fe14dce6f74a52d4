"""The form that changes a key; a change of the key in between is never overwritten."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from keyauthority.console.forms import changed_fields, edited, key_texts
from keyauthority.console.visits import FormPage, Visit
from keyauthority.errors import Aborted


async def show_edit(visit: Visit) -> Response:
    """Show the form with the present values."""
    key = await visit.authority.get_key(visit.path("access_key"))
    return await _form(visit).show(key_texts(key) | {"etag": key.etag})


async def edit(visit: Visit) -> Response:
    """Change the fields that were edited, unless the key has changed since the form."""
    access_key = visit.path("access_key")

    async def action() -> Response:
        key = await visit.authority.get_key(access_key)
        etag = visit.texts.get("etag", "")
        if etag != key.etag:
            raise Aborted("")
        values = changed_fields(visit.texts, key_texts(key))
        if values:
            await visit.authority.update_key(access_key, etag=etag, **values)
        return visit.go(f"/keys/{access_key}", "Key saved." if values else "No change.")

    return await _form(visit).submit(action)


def _form(visit: Visit) -> FormPage:
    """Return the form; if the key has changed since, it shows the present values as well."""

    async def load() -> Mapping[str, Any]:
        key = await visit.authority.get_key(visit.path("access_key"))
        if not visit.texts or visit.texts.get("etag") == key.etag:
            return {"key": key, "now_texts": {}}
        now_texts = key_texts(key)
        return {
            "key": key,
            "now_texts": {name: now_texts[name] for name in edited(visit.texts, now_texts)},
        }

    return FormPage(visit, "key_edit.html", load, {"key": None, "now_texts": {}})
