"""Forward authentication over HTTP: `/auth` for proxies, `/healthz` and `/metrics` beside it.

An ASGI application. `/auth` answers every method alike and reads no body.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, Final

from keyauthority.gateway.check import Checker
from keyauthority.gateway.identity import REVISION, identity, identity_headers
from keyauthority.gateway.metrics import CONTENT_TYPE, HTTP
from keyauthority.gateway.requirements import from_query
from keyauthority.http import responses
from keyauthority.http.client_address import FORWARDED, client_ip
from keyauthority.http.rejection import Rejection

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = Sequence[tuple[str, str]]

ERROR: Final = "x-keyauthority-error"
"""Header of a rejection with the word of its body, for proxies that do not pass the body on."""

_JSON: Final = ("content-type", "application/json")
_NO_STORE: Final = ("cache-control", "no-store")  # a cached answer would outlive a revocation
_BODILESS: Final = (b"", b"0")


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
        status, headers, body = await self._answer(scope)
        if _has_body(scope):
            headers = [*headers, ("connection", "close")]  # the body is not read
        described = [*headers, ("content-length", str(len(body)))]
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [
                    (name.encode("ascii"), text.encode("ascii")) for name, text in described
                ],
            }
        )
        content = b"" if scope["method"] == "HEAD" else body
        await send({"type": "http.response.body", "body": content})

    async def _answer(self, scope: Scope) -> tuple[int, Headers, bytes]:
        match scope["path"]:
            case "/auth":
                return await self._auth(scope)
            case "/healthz":
                healthy = self._is_healthy()
                return (200, [_JSON], b'{"status": "serving"}') if healthy else _NOT_SERVING
            case "/metrics":
                return 200, [("content-type", CONTENT_TYPE)], self._metrics_text().encode("ascii")
            case _:
                return _NOT_FOUND

    async def _auth(self, scope: Scope) -> tuple[int, Headers, bytes]:
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
            described = [_JSON, _NO_STORE, (ERROR, outcome.error), *responses.headers(outcome)]
            return status, described, responses.body(outcome)
        limits = responses.rate_limit_headers(outcome.verdict)
        caller = identity_headers(identity(outcome.verdict))
        revision = (REVISION, str(outcome.verdict.revision))
        return 200, [_NO_STORE, *caller, revision, *limits], b""


def _has_body(scope: Scope) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and text not in _BODILESS)
        for name, text in scope["headers"]
    )


def _error(status: int, word: str) -> tuple[int, Headers, bytes]:
    return status, [_JSON], json.dumps({"error": word}).encode("ascii")


_NOT_FOUND: Final = _error(404, "not_found")
_NOT_SERVING: Final = _error(503, "unavailable")
