"""The services behind nginx: FastAPI and Flask, as their pages describe them.

nginx connects from an address of its own, so that clients on this machine have other addresses.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Final

from fastapi import Depends, FastAPI, WebSocket
from flask import Flask, request

from keyauthority import AsyncClient, AsyncVerifier, Client, Verdict, Verifier
from keyauthority.middleware import asgi, wsgi
from keyauthority.middleware.admission import Permissions
from keyauthority.middleware.fastapi import RequireKey

PROXY: Final = "127.0.0.9"
RULES: Final[dict[str, Permissions]] = {
    "GET /health": None,
    "GET /orders": ["orders:read"],
    "GET /watch": ["orders:read"],
    "* /public/*": None,
}
_Orders = Annotated[Verdict, Depends(RequireKey("orders:read", trusted_proxies=[PROXY]))]


def _credentials() -> tuple[str, str]:
    return os.environ["KEYAUTHORITY_ADDRESS"], os.environ["KEYAUTHORITY_OPERATOR_KEY"]


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    address, operator_key = _credentials()
    authority = AsyncClient(address, operator_key=operator_key)
    async with authority, AsyncVerifier(authority) as verifier:
        app.state.verifier = verifier
        yield


fastapi_app = FastAPI(lifespan=_lifespan)


@fastapi_app.get("/orders")
async def orders(caller: _Orders) -> dict[str, str]:
    """The caller, who is admitted by middleware and dependency."""
    return {"access_key": caller.access_key}


@fastapi_app.websocket("/watch")
async def watch(socket: WebSocket, caller: _Orders) -> None:
    """The caller, over a WebSocket."""
    await socket.accept()
    await socket.send_json({"access_key": caller.access_key})
    await socket.close()


@fastapi_app.get("/health")
async def health() -> dict[str, bool]:
    """Open to all."""
    return {"healthy": True}


fastapi_app.add_middleware(
    asgi.KeyMiddleware,
    verifier=lambda: fastapi_app.state.verifier,
    rules=RULES,
    trusted_proxies=[PROXY],
)


def flask_app() -> Flask:
    """The same in Flask, made in the worker."""
    address, operator_key = _credentials()
    verifier = Verifier(Client(address, operator_key=operator_key)).__enter__()
    app = Flask(__name__)

    @app.get("/orders")
    def orders() -> dict[str, str]:
        return {"access_key": request.environ[wsgi.CALLER].access_key}

    @app.get("/health")
    def health() -> dict[str, bool]:
        return {"healthy": True}

    app.wsgi_app = wsgi.KeyMiddleware(  # type: ignore[method-assign] # as Flask documents it
        app.wsgi_app, verifier, RULES, trusted_proxies=[PROXY]
    )
    return app
