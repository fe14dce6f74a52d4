"""The console's application: the table of its pages, and the way of a request to a handler."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Final, NamedTuple

from starlette.applications import Starlette
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from keyauthority.console import (
    advisories,
    audit,
    creation,
    editing,
    key_actions,
    keys,
    live,
    operators,
    projects,
    signing_in,
    usage,
)
from keyauthority.console.failures import NOT_FOUND, Failure, failure_of
from keyauthority.console.forms import submitted
from keyauthority.console.guard import BodyTooLarge, Guard, Hosts
from keyauthority.console.signing_in import Entrance
from keyauthority.console.visits import SEE_OTHER, Services, Visit
from keyauthority.errors import KeyAuthorityError, Unauthenticated
from keyauthority.text import UUID
from keyauthority.token import ACCESS_KEY_PATTERN

Handler = Callable[[Visit], Awaitable[Response]]


class Page(NamedTuple):
    """A path, the handler that shows it, and the handler of its form."""

    path: str
    show: Handler | None = None
    submit: Handler | None = None


_PROJECT: Final = "/projects/{project_id:project_id}"
_KEY: Final = "/keys/{access_key:access_key}"
PAGES: Final = (
    Page("/projects", projects.show_all, projects.create),
    Page(_PROJECT, keys.show_all),
    Page(f"{_PROJECT}/edit", projects.show_edit, projects.edit),
    Page(f"{_PROJECT}/suspend", projects.show_suspend, projects.suspend),
    Page(f"{_PROJECT}/resume", projects.show_resume, projects.resume),
    Page(f"{_PROJECT}/keys/new", creation.show_new, creation.create),
    Page(_KEY, keys.show),
    Page(f"{_KEY}/edit", editing.show_edit, editing.edit),
    Page(f"{_KEY}/rotate", key_actions.show_rotate, key_actions.rotate),
    Page(f"{_KEY}/disable", key_actions.show_disable, key_actions.disable),
    Page(f"{_KEY}/enable", key_actions.show_enable, key_actions.enable),
    Page(f"{_KEY}/revoke", key_actions.show_revoke, key_actions.revoke),
    Page("/operators", operators.show_all, operators.create),
    Page("/advisories", advisories.show),
    Page("/audit", audit.show),
    Page("/usage", usage.show),
    Page("/usage.csv", usage.download),
    Page("/check", submit=creation.check),
    Page("/secret-shown/{mark}", creation.mark_shown),
    Page("/sign-out", submit=signing_in.sign_out),
)

_REFUSALS: Final = {
    400: Failure(400, "The request was refused", "The form could not be read."),
    403: Failure(
        403,
        "Nothing was done",
        "The form was not sent from a page of this console, or your session has ended.",
    ),
    404: NOT_FOUND,
    405: Failure(405, "Not allowed", "This page does not take such a request."),
    415: Failure(415, "The request was refused", "A form is sent URL-encoded, as browsers do."),
}
_TOO_LARGE: Final = Failure(413, "The form is too large", "A form may have 1 MiB.")
_DEFECT: Final = Failure(500, "The console failed", "Its log has the details.")
"""The trace is on standard error."""


class _AccessKey(StringConvertor):
    regex = ACCESS_KEY_PATTERN.pattern


class _ProjectId(StringConvertor):
    regex = UUID.pattern


register_url_convertor("access_key", _AccessKey())
register_url_convertor("project_id", _ProjectId())


class Console:
    """Makes the application of these services."""

    def __init__(self, services: Services, entrance: Entrance, stopping: live.Stopping) -> None:
        self._services = services
        self._entrance = entrance
        self._stopping = stopping

    def application(
        self, hosts: Hosts, lifespan: Callable[[Starlette], AbstractAsyncContextManager[None]]
    ) -> Guard:
        """Return the ASGI application."""
        entrance = self._entrance
        routes = [
            Route("/", _home),
            Route("/static/{version}/{name}", self._static),
            Route("/sign-in", entrance.sign_in, methods=["GET", "POST"]),
            Route("/changes", self._changes),
            *(
                Route(page.path, self._endpoint(page), methods=_methods(page), name=page.path)
                for page in PAGES
            ),
        ]
        handlers: dict[Any, Callable[[Request, Exception], Awaitable[Response]]] = {
            HTTPException: self._http_error,
            KeyAuthorityError: self._call_failed,
            BodyTooLarge: partial(self._failure_page, failure=_TOO_LARGE),
            ClientDisconnect: _disconnected,
            Exception: partial(self._failure_page, failure=_DEFECT),
        }
        app = Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan)
        app.router.redirect_slashes = False
        return Guard(app, hosts)

    def _endpoint(self, page: Page) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            is_post = request.method == "POST"
            if is_post:
                self._entrance.refuse_foreign(request)
            session = await self._entrance.session_of(request)
            if session is None and not is_post:
                return RedirectResponse("/sign-in", SEE_OTHER)
            handler = page.submit if is_post else page.show
            if session is None or handler is None:
                raise HTTPException(403)
            texts = await submitted(request) if is_post else {}
            if is_post:
                self._entrance.refuse_stolen(request, texts)
            return await handler(Visit(self._services, request, session, texts))

        return endpoint

    async def _static(self, request: Request) -> Response:
        static = self._services.renderer.static
        name = request.path_params["name"]
        if name not in static.files or request.path_params["version"] != static.version:
            raise HTTPException(404)
        keep = {"cache-control": "public, max-age=31536000, immutable"}
        return Response(static.files[name], headers=keep, media_type=static.media_type(name))

    async def _changes(self, request: Request) -> Response:
        session = await self._entrance.session_of(request, touch=False)
        if session is None:
            return Response(status_code=204)
        return await live.stream(request, session, self._services.sessions, self._stopping)

    async def _http_error(self, request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        failure = _REFUSALS.get(status) or Failure(status, "Refused", "The request was refused.")
        return await self._failure_page(request, error, failure)

    async def _call_failed(self, request: Request, error: Exception) -> Response:
        session = await self._entrance.session_of(request)
        if isinstance(error, Unauthenticated) and session is not None:
            await self._services.sessions.end(session)
        return await self._failure_page(request, error, failure_of(error))

    async def _failure_page(self, request: Request, error: Exception, failure: Failure) -> Response:
        session = await self._entrance.session_of(request)
        services = self._services
        response = services.renderer.page(
            "failure.html",
            failure.status,
            failure=failure,
            session=session,
            csrf_token=services.sessions.csrf_token(session.id) if session else "",
            message="",
            path="",
        )
        if failure.is_temporary:
            response.headers["retry-after"] = "5"
        return response


def _methods(page: Page) -> list[str]:
    return [name for name, handler in (("GET", page.show), ("POST", page.submit)) if handler]


async def _disconnected(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # the browser is gone


async def _home(request: Request) -> Response:
    return RedirectResponse("/projects", SEE_OTHER)
