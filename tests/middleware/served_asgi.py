"""The ASGI applications of the server matrix: one process serves all of them.

The header `x-cell` names the application, so that paths stay as the server gives them:
`mount-both` is a guarded application below `/v1` with middleware and a dependency.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response, WebSocket
from fastapi.requests import HTTPConnection
from fastapi.responses import StreamingResponse

from keyauthority import AsyncClient, AsyncVerifier, Verdict
from keyauthority.middleware import asgi
from keyauthority.middleware.admission import Permissions
from keyauthority.middleware.fastapi import RequireKey

OPENED: dict[str, AsyncVerifier] = {}
LIFESPAN = FastAPI()
MEETING = asyncio.Barrier(2)
"""A barrier of two requests, so that both are being served."""


async def opened() -> AsyncVerifier:
    """The verifier of this process, opened at its first request: needs no lifespan."""
    if not OPENED:
        client = AsyncClient(
            os.environ["KEYAUTHORITY_ADDRESS"],
            operator_key=os.environ["KEYAUTHORITY_OPERATOR_KEY"],
        )
        OPENED["verifier"] = AsyncVerifier(client)
        await OPENED["verifier"].__aenter__()
    return OPENED["verifier"]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the verifier where the server runs a lifespan."""
    LIFESPAN.state.verifier = await opened()
    yield
    await LIFESPAN.state.verifier.close()


LIFESPAN.router.lifespan_context = lifespan


def told(verdict: Verdict | None, path: str) -> dict[str, Any]:
    """An application's view of a request."""
    standing = verdict.key_standing if verdict else None
    return {
        "access_key": verdict.access_key if verdict else None,
        "remaining": standing.remaining if standing else None,
        "path": path,
    }


async def caller_of(connection: HTTPConnection) -> Verdict | None:
    """The caller whom the middleware has noted."""
    found: Verdict | None = getattr(connection.state, "caller", None)
    return found


def routes(guard: Any, path: str) -> APIRouter:
    """The routes of an application; a streamed answer looks at its caller at its end."""
    router = APIRouter()
    caller: Any = Depends(guard)

    @router.get("/who")
    async def who(request: Request, caller: Verdict | None = caller) -> dict[str, Any]:
        if "meet" in request.query_params:
            await MEETING.wait()
        return told(getattr(request.state, "caller", None) or caller, path)

    @router.get("/stream")
    async def stream(request: Request, caller: Verdict | None = caller) -> Response:
        async def lines() -> AsyncIterator[str]:
            for _ in range(2):
                await asyncio.sleep(0)
                seen = getattr(request.state, "caller", None) or caller
                yield f"{seen and seen.access_key}\n"

        return StreamingResponse(lines())

    @router.websocket("/watch")
    async def watch(socket: WebSocket, caller: Verdict | None = caller) -> None:
        await socket.accept()
        await socket.send_json(told(caller, path))
        await socket.close()

    @router.get("/open")
    async def unguarded(request: Request) -> dict[str, Any]:
        return told(getattr(request.state, "caller", None), "/open")

    return router


def rules(prefix: str) -> dict[str, Permissions]:
    """The middleware's requirement below a prefix."""
    return {
        f"GET {prefix}/open": None,
        f"GET {prefix}/who": ["orders:read"],
        f"GET {prefix}/stream": ["orders:read"],
        f"GET {prefix}/watch": ["orders:read"],
    }


class Control:
    """The mistake that the guards do not make: the caller is written into the server's state."""

    def __init__(self, app: asgi.App) -> None:
        self._app = app

    async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        """Serve one request."""
        key = dict(scope["headers"]).get(b"x-api-key")
        if key is not None:
            verdict = await (await opened()).verify(key.decode())
            scope.setdefault("state", {})["caller"] = verdict
        await self._app(scope, receive, send)


def application(place: str, guard: str, *, with_lifespan: bool) -> asgi.App:
    """The application of a cell of the matrix."""
    source: asgi.VerifierSource = (lambda: LIFESPAN.state.verifier) if with_lifespan else opened
    inside = guard in ("dependency", "both", "nested")
    require = RequireKey("orders:read", verifier=source) if inside else caller_of
    app = FastAPI()
    prefix = "/v1" if place == "router" else ""
    app.include_router(
        routes(require, f"{prefix}/who"),
        prefix=prefix,
        dependencies=[Depends(RequireKey(verifier=source))] if guard == "nested" else [],
    )
    guarded: asgi.App = app
    for _ in range({"dependency": 0, "control": 0, "nested": 2}.get(guard, 1)):
        guarded = asgi.KeyMiddleware(guarded, source, rules(prefix))
    if guard == "control":
        guarded = Control(guarded)
    if place == "mount":
        outer = FastAPI()
        outer.mount("/v1", guarded)
        return outer
    return guarded


CELLS: Mapping[str, asgi.App] = {
    f"{place}-{guard}{'' if with_lifespan else '-off'}": application(
        place, guard, with_lifespan=with_lifespan
    )
    for place in ("app", "mount", "router")
    for guard in ("middleware", "dependency", "both", "nested", "control")
    for with_lifespan in (True, False)
}


async def app(scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
    """Serve a request by the application that it names; the lifespan has one of its own."""
    if scope["type"] == "lifespan":
        await LIFESPAN(scope, receive, send)
        return
    cell = dict(scope["headers"])[b"x-cell"].decode()
    await CELLS[cell](scope, receive, send)
