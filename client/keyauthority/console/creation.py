"""The form of a new key, the page that shows its secret once, and the check of typed fields."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from keyauthority.console.forms import Reader
from keyauthority.console.forms import check as check_field
from keyauthority.console.visits import FormPage, Visit, request_id_of
from keyauthority.model import Key, KeyKind, KeyMode
from keyauthority.results import CreatedKey, RotatedKey

GONE: Final = 410
_PIXEL: Final = b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")


async def show_new(visit: Visit) -> Response:
    """Show the form of a new key."""
    return await _form(visit).show({"mode": visit.query("mode")})


async def create(visit: Visit) -> Response:
    """Create a key and show its secret."""
    project_id = visit.path("project_id")

    async def action() -> Response:
        reader = Reader(visit.texts)
        mode = reader.choice("mode", KeyMode)
        kind = reader.choice("kind", KeyKind)
        if kind is KeyKind.OPERATOR:
            reader.refuse("kind", "Operator keys are made on the page Operators.")
        return await create_key(visit, reader, kind, project_id=project_id, mode=mode)

    return await _form(visit).submit(action)


def _form(visit: Visit) -> FormPage:
    project_id = visit.path("project_id")

    async def load() -> Mapping[str, Any]:
        return {"project": await visit.project(project_id), "project_id": project_id}

    return FormPage(visit, "key_new.html", load, {"project": None, "project_id": project_id})


async def create_key(
    visit: Visit, reader: Reader, kind: KeyKind | None, **arguments: Any
) -> Response:
    """Create the key that a form describes, and return the page with its secret."""
    arguments |= {
        "purpose": reader.text("purpose"),
        **{
            name: reader.read(name)
            for name in (
                *("permissions", "expire_time", "ttl", "rate_limit", "quota"),
                *("labels", "operator_projects"),
            )
        },
        "restrictions": reader.restrictions(),
        "request_id": request_id_of(reader),
    }
    if arguments["ttl"] is not None and arguments["expire_time"] is not None:
        reader.refuse("expire_time", "Give a lifetime or a time of expiry, not both.")
    reader.finish()
    create = partial(visit.authority.create_key, kind=kind or "", **arguments)
    return await show_secret(visit, arguments["request_id"], create)


async def show_secret(
    visit: Visit, request_id: str, call: Callable[[], Awaitable[CreatedKey | RotatedKey]]
) -> Response:
    """Return the page with a new secret; repeated, it shows the secret until it has been seen.

    A browser that reloads the page sends the same form, and the authority answers the same
    request_id with the same secret. The page contains an image whose request marks the secret as
    shown; from then on nothing is sent.
    """
    shown = visit.services.shown
    if shown.was_shown(request_id):
        return visit.page("secret_gone.html", GONE)
    result = await call()
    return visit.page(
        "secret.html",
        key=result.key,
        previous=result.previous if isinstance(result, RotatedKey) else None,
        secret_key=result.secret_key.reveal(),
        mark=shown.new_mark(request_id),
        address=visit.services.address,
        variable=_variable(result.key),
    )


def _variable(key: Key) -> str:
    """Return a name for the secret in an environment file."""
    return "OPERATOR_KEY" if key.kind is KeyKind.OPERATOR else "API_KEY"


async def mark_shown(visit: Visit) -> Response:
    """Mark a secret as shown, and answer with an image of one pixel."""
    if visit.request.method != "GET":
        raise HTTPException(405)
    visit.services.shown.use_mark(visit.path("mark"))
    return Response(_PIXEL, media_type="image/gif")


async def check(visit: Visit) -> Response:
    """Return the errors of fields as they are typed: `{"permissions": ["Line 1: …"]}`."""
    return JSONResponse({name: check_field(name, text) for name, text in visit.texts.items()})
