"""One request of a person who has signed in: their session, their input, and the answers to it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from keyauthority.aio import AsyncClient
from keyauthority.console.failures import GENERAL, failure_of, field_errors
from keyauthority.console.forms import Reader, Refused
from keyauthority.console.rendering import Renderer
from keyauthority.console.sessions import Session, Sessions, ShownSecrets, new_request_id
from keyauthority.errors import (
    AlreadyExists,
    InvalidArgument,
    KeyAuthorityError,
    NotFound,
    PermissionDenied,
    Unauthenticated,
)
from keyauthority.model import Project

T = TypeVar("T")
SEE_OTHER = 303
UNPROCESSABLE = 422


@dataclass(frozen=True)
class Services:
    """The parts of the console that all requests share."""

    sessions: Sessions
    shown: ShownSecrets
    renderer: Renderer
    address: str
    """The address of the authority, for the examples beside a new secret."""
    has_link: bool
    """True if the console was started with a one-time link."""
    cookie: str
    """The name of the session's cookie."""


@dataclass(frozen=True)
class Visit:
    """A request, and the form that it sent."""

    services: Services
    request: Request
    session: Session
    texts: Mapping[str, str] = field(default_factory=dict)
    """The fields of the form, by name; empty for GET."""

    @property
    def authority(self) -> AsyncClient:
        """The client with the operator key of the session."""
        return self.session.authority

    def path(self, name: str) -> str:
        """Return an id from the path."""
        return str(self.request.path_params[name])

    def query(self, name: str) -> str:
        """Return a value of the query; empty if it is missing."""
        return self.request.query_params.get(name, "").strip()

    def page(self, template: str, status: int = 200, **values: Any) -> Response:
        """Return a page."""
        return self.services.renderer.page(
            template,
            status,
            session=self.session,
            csrf_token=self.services.sessions.csrf_token(self.session.id),
            message=self.session.take_message() if self.request.method == "GET" else "",
            path=self.request.url.path,
            **values,
        )

    def go(self, path: str, message: str) -> Response:
        """Return the redirection after a change; the next page shows the message."""
        self.session.message = message
        return RedirectResponse(path, SEE_OTHER)

    async def allowed(self, call: Awaitable[T]) -> T | None:
        """Return the result of a read, or None if the operator lacks its right."""
        try:
            return await call
        except PermissionDenied:
            return None

    async def project(self, project_id: str) -> Project | None:
        """Return a project, or None if the operator may not read projects."""
        return await self.allowed(self.authority.get_project(project_id))


async def filtered(search: Awaitable[T]) -> tuple[T | None, Mapping[str, list[str]]]:
    """Return what the filters of a page find; or None, with the errors beside their fields."""
    try:
        return await search, {}
    except Refused as refused:
        return None, refused.errors
    except InvalidArgument as error:
        return None, field_errors(error.fields) or {GENERAL: [error.message]}
    except NotFound:
        return None, {GENERAL: ["There is no such project or key, or you may not see it."]}


@dataclass(frozen=True)
class FormPage:
    """A page with a form, which is shown again, as it was filled in, if a call is refused."""

    visit: Visit
    template: str
    load: Callable[[], Awaitable[Mapping[str, Any]]]
    """Reads the records that the page shows beside its form."""
    empty: Mapping[str, Any]
    """These values without records, if they cannot be read."""

    async def show(self, texts: Mapping[str, str] | None = None) -> Response:
        """Return the page; `texts` are the first texts of the form."""
        return self._page(200, await self.load(), texts or {})

    async def submit(self, action: Callable[[], Awaitable[Response]]) -> Response:
        """Return the answer of the action, or this page with the reason of its refusal."""
        try:
            return await action()
        except Refused as refused:
            return await self._again(UNPROCESSABLE, refused.errors)
        except (NotFound, Unauthenticated):
            raise
        except KeyAuthorityError as error:
            failure = failure_of(error)
            texts = dict(self.visit.texts)
            if isinstance(error, AlreadyExists):
                texts["request_id"] = new_request_id()
            errors = field_errors(error.fields) or {GENERAL: [failure.text]}
            return await self._again(failure.status, errors, texts)

    async def _again(
        self,
        status: int,
        errors: Mapping[str, list[str]],
        texts: Mapping[str, str] | None = None,
    ) -> Response:
        try:
            values = await self.load()
        except (NotFound, Unauthenticated):
            raise
        except KeyAuthorityError:
            values = self.empty
        return self._page(status, values, texts or self.visit.texts, errors)

    def _page(
        self,
        status: int,
        values: Mapping[str, Any],
        texts: Mapping[str, str],
        errors: Mapping[str, list[str]] | None = None,
    ) -> Response:
        filled = {"request_id": new_request_id(), **texts}
        return self.visit.page(self.template, status, texts=filled, errors=errors or {}, **values)


def request_id_of(reader: Reader) -> str:
    """Return the request_id of a form that creates something; refused if it is missing."""
    request_id = reader.text("request_id").lower()
    if not request_id:
        reader.refuse(GENERAL, "The form has no request_id: load the page again.")
    return request_id
