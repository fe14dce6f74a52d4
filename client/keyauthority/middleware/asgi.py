"""Guard for ASGI applications: Starlette, FastAPI, Litestar and others.

    rules = {"* /health": None, "GET /orders/*": ["orders:read"]}
    guarded = KeyMiddleware(app, lambda: app.state.verifier, rules)

The caller, a `Verdict`, is in `scope["state"]["caller"]`: `request.state.caller` in Starlette and
FastAPI.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Final

from keyauthority.http import responses
from keyauthority.http.client_address import TrustedProxies
from keyauthority.http.rejection import Rejection
from keyauthority.middleware.admission import (
    Admission,
    AsyncKeyVerifier,
    Guard,
    Permissions,
    Request,
    admit_async,
    check_verifier,
    current_verifier,
)
from keyauthority.middleware.http import is_preflight
from keyauthority.middleware.rules import RouteRules

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
VerifierSource = (
    AsyncKeyVerifier | Callable[[], AsyncKeyVerifier] | Callable[[], Awaitable[AsyncKeyVerifier]]
)
"""A verifier, or a callable that returns one; it may be asynchronous."""

ADMISSION: Final = "keyauthority.admission"
"""Scope key of the admission, for later guards of the same request."""
POLICY_VIOLATION: Final = 1008  # RFC 6455, section 7.4.1


class KeyMiddleware:
    """Passes allowed requests to the application; rejects others with 401, 403, 429 or 503."""

    def __init__(
        self,
        app: App,
        verifier: VerifierSource,
        rules: Mapping[str, Permissions],
        *,
        header: str | None = None,
        trusted_proxies: TrustedProxies = 0,
        cost: int = 1,
        allow_preflight: bool = False,
    ) -> None:
        """Wrap `app`; `verifier` may be a callable, for a verifier opened later in the event loop.

        `rules` are those of `rules.RouteRules`, matched relative to the mount point of the
        application. `header` is the only header to read the key from (default: Authorization,
        X-API-Key, X-Auth-Token). `trusted_proxies` is the number of proxies in front of the
        service, or a list of their addresses and CIDR blocks. `cost` is spent from the limits of
        the key. `allow_preflight` admits CORS preflights without a key.
        """
        check_verifier(verifier, awaited=True)
        self._app = app
        self._verifier = verifier
        self._rules = RouteRules(rules)
        self._guard = Guard(header=header, trusted_proxies=trusted_proxies, cost=cost)
        self._allow_preflight = allow_preflight
        self._root_path = str(getattr(app, "root_path", ""))  # as `FastAPI(root_path=…)` sets it

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] not in ("http", "websocket"):
            raise RuntimeError(f"connections of type {scope['type']!r} cannot be guarded")
        method = scope.get("method", "GET")
        permissions = self._rules.match(method, route_path(scope, self._root_path))
        if permissions is None or (self._allow_preflight and is_preflight(method, _names(scope))):
            await self._app(scope, receive, send)
            return
        outcome = (
            permissions
            if isinstance(permissions, Rejection)
            else await admit_scope(self._guard, self._verifier, scope, permissions)
        )
        if isinstance(outcome, Rejection):
            await _refuse(outcome, scope, send)
            return
        if outcome.spent and scope["type"] == "http":
            send = _with_headers(send, responses.rate_limit_headers(outcome.verdict))
        state = {**scope.get("state", {}), "caller": outcome.verdict}
        await self._app({**scope, "state": state, ADMISSION: outcome}, receive, send)


async def admit_scope(
    guard: Guard, source: VerifierSource, scope: Scope, permissions: Permissions
) -> Admission | Rejection:
    """Return the admission of a connection, or its rejection."""
    verifier = current_verifier(source)
    if inspect.isawaitable(verifier):
        verifier = await verifier
    client = scope.get("client")
    headers = [
        (name.decode("latin-1").lower(), text.decode("latin-1")) for name, text in scope["headers"]
    ]
    request = Request(headers, client[0] if client else "")
    return await admit_async(guard, verifier, request, permissions or (), scope.get(ADMISSION))


def route_path(scope: Scope, root_path: str = "") -> str:
    """Return the path relative to the mount point of the application.

    Some servers prepend `root_path` to the path of the request; applications strip it if present.
    """
    path: str = scope["path"]
    root = root_path or scope.get("root_path", "")
    if root and path.startswith(root) and path[len(root) : len(root) + 1] in ("", "/"):
        return path[len(root) :]
    return path


def _names(scope: Scope) -> set[str]:
    return {name.decode("latin-1").lower() for name, _ in scope["headers"]}


def _with_headers(send: Send, fields: list[tuple[str, str]]) -> Send:
    """Return a `send` that adds headers to the response."""
    if not fields:
        return send
    added = [(name.encode("ascii"), text.encode("ascii")) for name, text in fields]

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *added]}
        await send(message)

    return sending


async def _refuse(rejection: Rejection, scope: Scope, send: Send) -> None:
    if scope["type"] == "websocket":
        reason = rejection.error
        await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": reason})
        return
    headers = [
        (name.encode("ascii"), text.encode("ascii"))
        for name, text in responses.all_headers(rejection)
    ]
    status, _ = responses.STATUS[rejection.kind]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    content = b"" if scope["method"] == "HEAD" else responses.body(rejection)  # RFC 9110, 9.3.2
    await send({"type": "http.response.body", "body": content})
