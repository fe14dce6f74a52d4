"""Guard for single FastAPI routes, over HTTP and WebSocket.

    @app.get("/orders")
    async def orders(caller: Verdict = Depends(RequireKey("orders:read"))) -> ...:

The verifier defaults to `app.state.verifier`, which the application's lifespan opens and closes.
"""

from __future__ import annotations

from typing import NoReturn

from fastapi import HTTPException, Response, WebSocketException
from fastapi.openapi.models import APIKey, APIKeyIn, HTTPBearer
from fastapi.requests import HTTPConnection
from fastapi.security.base import SecurityBase

from keyauthority.http import responses
from keyauthority.http.client_address import TrustedProxies
from keyauthority.http.credentials import check_header
from keyauthority.http.rejection import NOT_LISTED, Rejection
from keyauthority.middleware.admission import Guard, check_permissions, check_verifier
from keyauthority.middleware.asgi import (
    ADMISSION,
    POLICY_VIOLATION,
    VerifierSource,
    admit_scope,
)
from keyauthority.model import Verdict


class RequireKey(SecurityBase):
    """A dependency that returns the caller, or rejects with 401, 403, 429 or 503.

    A WebSocket is closed with 1008. FastAPI shows the key in its OpenAPI document.
    """

    def __init__(
        self,
        *permissions: str,
        verifier: VerifierSource | None = None,
        header: str | None = None,
        trusted_proxies: TrustedProxies = 0,
        cost: int = 1,
    ) -> None:
        """Require the permissions of the caller.

        `verifier` is a verifier or a callable that returns one (default: `app.state.verifier`). The
        other options are those of `asgi.KeyMiddleware`.
        """
        check_permissions(permissions, "RequireKey")
        if verifier is not None:
            check_verifier(verifier, awaited=True)
        self._permissions = permissions
        self._verifier = verifier
        self._guard = Guard(header=header, trusted_proxies=trusted_proxies, cost=cost)
        name = check_header(header)
        # Names defined by FastAPI: `model` appears in the OpenAPI document under `scheme_name`.
        self.scheme_name = "KeyAuthority" if name is None else f"KeyAuthority-{name}"
        self.model = (
            HTTPBearer(
                description="An API key; also as X-API-Key, X-Auth-Token or Basic user name."
            )
            if name is None
            else APIKey.model_validate({"in": APIKeyIn.header, "name": name})
        )

    async def __call__(self, connection: HTTPConnection, response: Response) -> Verdict:
        """Return the caller of a request."""
        scope = connection.scope
        method = scope.get("method", "GET")
        source = self._verifier or (lambda: connection.app.state.verifier)
        outcome = (
            await admit_scope(self._guard, source, scope, self._permissions)
            if method == method.upper()
            else NOT_LISTED
        )
        if isinstance(outcome, Rejection):
            _refuse(outcome, scope["type"])
        scope[ADMISSION] = outcome  # the scope belongs to this request only
        if outcome.spent:
            response.headers.update(dict(responses.rate_limit_headers(outcome.verdict)))
        return outcome.verdict


def _refuse(rejection: Rejection, connection_type: str) -> NoReturn:
    if connection_type == "websocket":
        raise WebSocketException(POLICY_VIOLATION, rejection.error)
    status, _ = responses.STATUS[rejection.kind]
    raise HTTPException(status, responses.content(rejection), dict(responses.headers(rejection)))
