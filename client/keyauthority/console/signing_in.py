"""Signing in and out, and the checks that a POST was sent by a page of this console."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from keyauthority.console.failures import Failure, failure_of
from keyauthority.console.forms import submitted
from keyauthority.console.sessions import Session, new_token
from keyauthority.console.visits import SEE_OTHER, UNPROCESSABLE, Services, Visit
from keyauthority.errors import KeyAuthorityError, Unauthenticated
from keyauthority.model import KeyKind
from keyauthority.token import SecretKey, parse

_SERVER_ERROR: Final = 500
_USED_LINK: Final = Failure(
    403,
    "This link has ended",
    "A sign-in link works once, for 10 minutes. Start the console again for a new one.",
)


@dataclass(frozen=True)
class Entrance:
    """Finds the session of a request, and signs people in."""

    services: Services
    scheme: str
    operator_key: SecretKey | None
    """The operator key of the environment, for the one-time link."""

    @property
    def _cookie(self) -> str:
        return self.services.cookie

    async def session_of(self, request: Request, *, touch: bool = True) -> Session | None:
        """Return the session of a request. A live update of a page does not prolong it."""
        touch = touch and "x-live-update" not in request.headers
        session_id = request.cookies.get(self._cookie, "")
        return await self.services.sessions.find(session_id, touch=touch)

    def refuse_foreign(self, request: Request) -> None:
        """Raise 403 unless a page of this origin sent the request.

        A browser sends `Origin: null` from pages whose referrer policy is no-referrer.
        """
        origins = request.headers.getlist("origin")
        own = f"{self.scheme}://{request.headers['host'].lower()}"
        if [own] == [origin.lower() for origin in origins]:
            return
        if set(origins) <= {"null"} and request.headers.get("sec-fetch-site") == "same-origin":
            return
        raise HTTPException(403)

    def refuse_stolen(self, request: Request, texts: Mapping[str, str]) -> None:
        """Raise 403 unless the form has the token of the request's cookie."""
        cookie = request.cookies.get(self._cookie, "")
        if not cookie or not self.services.sessions.is_csrf_token(
            cookie, texts.get("csrf_token", "")
        ):
            raise HTTPException(403)

    async def sign_in(self, request: Request) -> Response:
        """Show the form, use a one-time link, or sign in with the operator key of the form."""
        if request.method != "POST":
            if "token" in request.query_params and request.method == "GET":
                return await self._use_link(request)
            return self._form(request)
        self.refuse_foreign(request)
        texts = await submitted(request)
        if self._cookie in request.cookies:  # as in every browser that has loaded the form
            self.refuse_stolen(request, texts)
        key = texts.get("operator_key", "").strip()
        token = parse(key)
        if token is None or token.kind is not KeyKind.OPERATOR:
            return self._form(request, "This is not an operator key.")
        return await self._start(request, SecretKey(key))

    async def _use_link(self, request: Request) -> Response:
        if not self.services.sessions.use_link(request.query_params["token"]):
            return self._ended(_USED_LINK)
        response = await self._start(request, self.operator_key)
        if response.status_code >= _SERVER_ERROR:
            self.services.sessions.reopen_link()
        return response

    async def _start(self, request: Request, operator_key: SecretKey | None) -> Response:
        """Start a session if the authority accepts the operator key, with any rights."""
        authority = self.services.sessions.client(operator_key)
        try:
            caller = await authority.get_caller()
        except KeyAuthorityError as error:
            await authority.close()
            failure = failure_of(error)
            if isinstance(error, Unauthenticated):
                return self._form(request, "The authority does not accept this operator key.")
            status = UNPROCESSABLE if failure.status == 403 else failure.status
            return self._form(request, failure.text, status)
        previous = await self.session_of(request)
        if previous is not None:
            await self.services.sessions.end(previous)
        operator = caller.access_key or caller.certificate_name
        session = await self.services.sessions.start(authority, operator)
        response = RedirectResponse("/projects", SEE_OTHER)
        self._set_cookie(response, session.id)
        return response

    def _form(self, request: Request, error: str = "", status: int = UNPROCESSABLE) -> Response:
        present = request.cookies.get(self._cookie)
        visitor = present or new_token()
        response: Response = self.services.renderer.page(
            "sign_in.html",
            status if error else 200,
            error=error,
            session=None,
            csrf_token=self.services.sessions.csrf_token(visitor),
            message="",
            path="",
            has_link=self.services.has_link,
        )
        if not present:
            self._set_cookie(response, visitor)
        return response

    def _ended(self, failure: Failure) -> Response:
        return self.services.renderer.page(
            "failure.html",
            failure.status,
            failure=failure,
            session=None,
            csrf_token="",
            message="",
            path="",
        )

    def _set_cookie(self, response: Response, value: str) -> None:
        secure = "; Secure" if self.scheme == "https" else ""
        cookie = f"{self._cookie}={value}; Path=/; HttpOnly; SameSite=Strict{secure}"
        response.headers.append("set-cookie", cookie)


async def sign_out(visit: Visit) -> Response:
    """End the session."""
    await visit.services.sessions.end(visit.session)
    return RedirectResponse("/sign-in", SEE_OTHER)
