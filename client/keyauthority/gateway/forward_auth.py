"""Forward authentication over HTTP: `/auth` for proxies, `/healthz` and `/metrics` beside it.

An ASGI application. `/auth` answers every method alike and reads no body.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from keyauthority.endpoint.answers import (
    JSON,
    NOT_FOUND,
    Answer,
    Receive,
    Scope,
    Send,
    error,
    metrics,
    send_answer,
)
from keyauthority.gateway.check import Checker
from keyauthority.gateway.identity import REVISION, identity, identity_headers
from keyauthority.gateway.metrics import HTTP
from keyauthority.gateway.requirements import from_query
from keyauthority.http import responses
from keyauthority.http.client_address import FORWARDED, client_ip
from keyauthority.http.rejection import Rejection

ERROR: Final = "x-keyauthority-error"
"""Header of a rejection with the word of its body, for proxies that do not pass the body on."""

_NO_STORE: Final = ("cache-control", "no-store")  # a cached answer would outlive a revocation
_SERVING: Final = Answer(HTTPStatus.OK, [JSON], b'{"status": "serving"}')
_NOT_SERVING: Final = error(HTTPStatus.SERVICE_UNAVAILABLE, "unavailable")


class HttpEnd:
    """The application."""

    def __init__(
        self,
        checker: Checker,
        *,
        trusted_proxies: int,
        is_healthy: Callable[[], bool],
        metrics_text: Callable[[], str],
    ) -> None:
        self._checker = checker
        self._trusted_proxies = trusted_proxies
        self._is_healthy = is_healthy
        self._metrics_text = metrics_text

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await send_answer(await self._answer(scope), scope, send)

    async def _answer(self, scope: Scope) -> Answer:
        match scope["path"]:
            case "/auth":
                return await self._auth(scope)
            case "/healthz":
                return _SERVING if self._is_healthy() else _NOT_SERVING
            case "/metrics":
                return metrics(self._metrics_text())
            case _:
                return NOT_FOUND

    async def _auth(self, scope: Scope) -> Answer:
        headers = [
            (name.decode("latin-1"), text.decode("latin-1")) for name, text in scope["headers"]
        ]
        forwarded = [text for name, text in headers if name == FORWARDED]
        peer = scope["client"][0] if scope["client"] else ""
        address = client_ip(peer, forwarded, self._trusted_proxies)
        requirements = from_query(scope["query_string"])
        outcome = await self._checker.check(HTTP, headers, address, requirements)
        if isinstance(outcome, Rejection):
            status, _ = responses.STATUS[outcome.kind]
            described = [JSON, _NO_STORE, (ERROR, outcome.error), *responses.headers(outcome)]
            return Answer(status, described, responses.body(outcome))
        limits = responses.rate_limit_headers(outcome.verdict)
        caller = identity_headers(identity(outcome.verdict))
        revision = (REVISION, str(outcome.verdict.revision))
        return Answer(HTTPStatus.OK, [_NO_STORE, *caller, revision, *limits], b"")
