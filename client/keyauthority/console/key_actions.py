"""Pages that end, replace or pause a key; each shows the key's use before it asks."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from starlette.responses import Response

from keyauthority.console import evidence
from keyauthority.console.creation import show_secret
from keyauthority.console.forms import Reader, duration, time
from keyauthority.console.visits import FormPage, Visit, request_id_of
from keyauthority.model import RevokeReason


def _form(visit: Visit, template: str) -> FormPage:
    """Return a form that stands beside the use of the key."""

    async def load() -> Mapping[str, Any]:
        key = await visit.authority.get_key(visit.path("access_key"))
        return {
            "key": key,
            "usage": await evidence.usage_of(visit, key.access_key),
            "handover": await evidence.handover_of(visit, key),
        }

    return FormPage(visit, template, load, {"key": None, "usage": None, "handover": None})


async def show_revoke(visit: Visit) -> Response:
    """Show the evidence of use before a key is revoked."""
    return await _form(visit, "key_revoke.html").show()


async def revoke(visit: Visit) -> Response:
    """Revoke a key permanently."""
    access_key = visit.path("access_key")

    async def action() -> Response:
        reader = Reader(visit.texts)
        reason = reader.choice("reason", RevokeReason)
        reader.finish()
        await visit.authority.revoke_key(access_key, reason=reason, note=reader.text("note"))
        return visit.go(f"/keys/{access_key}", "Key revoked. It no longer verifies.")

    return await _form(visit, "key_revoke.html").submit(action)


async def show_rotate(visit: Visit) -> Response:
    """Show the form of a rotation, with the choice of an overlap."""
    return await _form(visit, "key_rotate.html").show()


async def rotate(visit: Visit) -> Response:
    """Replace a key by a successor and show its secret."""
    access_key = visit.path("access_key")

    async def action() -> Response:
        reader = Reader(visit.texts)
        request_id = request_id_of(reader)
        overlap = reader.value("overlap", duration)
        expire_time = reader.value("expire_time", time)
        reader.finish()
        call = partial(
            visit.authority.rotate_key,
            access_key,
            overlap=overlap,
            expire_time=expire_time,
            request_id=request_id,
        )
        return await show_secret(visit, request_id, call)

    return await _form(visit, "key_rotate.html").submit(action)


async def show_disable(visit: Visit) -> Response:
    """Ask before a key is disabled."""
    return await _form(visit, "key_disable.html").show()


async def disable(visit: Visit) -> Response:
    """Disable a key until it is enabled again."""
    return await _switch(visit, "key_disable.html", "Key disabled.", disabled=True)


async def show_enable(visit: Visit) -> Response:
    """Ask before a key is enabled."""
    return await _form(visit, "key_enable.html").show()


async def enable(visit: Visit) -> Response:
    """Enable a key."""
    return await _switch(visit, "key_enable.html", "Key enabled.", disabled=False)


async def _switch(visit: Visit, template: str, message: str, **change: Any) -> Response:
    access_key = visit.path("access_key")

    async def action() -> Response:
        await visit.authority.update_key(access_key, **change)
        return visit.go(f"/keys/{access_key}", message)

    return await _form(visit, template).submit(action)
