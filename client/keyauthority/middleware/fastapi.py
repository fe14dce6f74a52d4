"""Keys for FastAPI, route by route.

    @app.get("/orders")
    async def orders(caller: Verdict = Depends(RequireKey("orders:read"))) -> ...:

The verifier is `app.state.verifier`, which the application's lifespan opens and closes.
"""

from __future__ import annotations

from fastapi import HTTPException, Request

from keyauthority.middleware import http
from keyauthority.middleware.admission import Denied, proxies
from keyauthority.middleware.asgi import admit
from keyauthority.model import Verdict


class RequireKey:
    """A dependency that gives the caller, or answers 401, 403, 429 or 503."""

    def __init__(self, *permissions: str, trusted_proxies: int = 0) -> None:
        """`trusted_proxies` is that of `asgi.KeyMiddleware`."""
        self._permissions = permissions
        self._trusted_proxies = proxies(trusted_proxies)

    async def __call__(self, request: Request) -> Verdict:
        """Return the caller of a request."""
        found = await admit(
            request.app.state.verifier, request.scope, self._permissions, self._trusted_proxies
        )
        if isinstance(found, Denied):
            status, _ = http.STATUS[found.denial]
            raise HTTPException(status, found.code, dict(http.headers(found)[1:]))
        return found
