"""Keys for ASGI applications: Starlette, FastAPI, Litestar and every other.

    rules = {"* /health": None, "GET /orders/*": ["orders:read"]}
    guarded = KeyMiddleware(app, lambda: app.state.verifier, rules)

The caller, a `Verdict`, is in `scope["state"]["caller"]`: `request.state.caller` in Starlette and
FastAPI.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from keyauthority.errors import KeyAuthorityError
from keyauthority.middleware import http
from keyauthority.middleware.admission import (
    FORWARDED,
    AsyncVerifies,
    Denied,
    Permissions,
    address_of,
    denied,
    failed,
    key_of,
    proxies,
    referrer_of,
)
from keyauthority.model import Verdict

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_POLICY_VIOLATION = 1008  # RFC 6455, section 7.4.1


class KeyMiddleware:
    """Lets through what a rule allows, and answers the rest: 401, 403, 429 or 503."""

    def __init__(
        self,
        app: App,
        verifier: AsyncVerifies | Callable[[], AsyncVerifies],
        rules: Mapping[str, Permissions],
        *,
        trusted_proxies: int = 0,
    ) -> None:
        """`verifier` may be what gives it, since it is opened in the event loop, later than this.

        `rules` are read from the first on: see `http.route`. ValueError if one fits nothing.

        `trusted_proxies` is how many of your own proxies a call comes through, each of which
        appends to X-Forwarded-For.
        """
        http.check(rules)
        self._app = app
        self._verifier = verifier if callable(verifier) else lambda: verifier
        self._rules = dict(rules)
        self._trusted_proxies = proxies(trusted_proxies)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        permissions = http.route(self._rules, scope.get("method", "GET"), scope["path"])
        if permissions is None:
            await self._app(scope, receive, send)
            return
        found = (
            permissions
            if isinstance(permissions, Denied)
            else await admit(self._verifier(), scope, permissions, self._trusted_proxies)
        )
        if isinstance(found, Denied):
            await _refuse(found, scope, send)
            return
        scope.setdefault("state", {})["caller"] = found
        await self._app(scope, receive, send)


async def admit(
    verifier: AsyncVerifies, scope: Scope, permissions: Permissions, trusted_proxies: int
) -> Verdict | Denied:
    """Return the caller of a connection, or why he does not get through."""
    headers = [
        (name.decode("latin-1").lower(), text.decode("latin-1")) for name, text in scope["headers"]
    ]
    key = key_of(headers)
    if isinstance(key, Denied):
        return key
    client = scope.get("client")
    forwarded = [text for name, text in headers if name == FORWARDED]
    try:
        verdict = await verifier.verify(
            key,
            permissions=permissions or (),
            client_ip=address_of(client[0] if client else "", forwarded, trusted_proxies),
            referrer=referrer_of(dict(headers).get("referer", "")),
        )
    except KeyAuthorityError as failure:
        return failed(failure)
    return denied(verdict) or verdict


async def _refuse(found: Denied, scope: Scope, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": found.code})
        return
    headers = [(name.encode(), text.encode()) for name, text in http.headers(found)]
    status, _ = http.STATUS[found.denial]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": http.body(found)})
