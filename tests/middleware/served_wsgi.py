"""The WSGI applications of the server matrix: one process serves all of them, named by `x-cell`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from threading import Lock
from typing import TYPE_CHECKING, Any

from flask import Flask, request
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from keyauthority import Client, Verifier
from keyauthority.middleware.wsgi import CALLER, KeyMiddleware

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

OPENED: dict[str, Verifier] = {}
OPENING = Lock()


def opened() -> Verifier:
    """The verifier of this process, opened at its first request: after a fork."""
    with OPENING:
        if not OPENED:
            client = Client(
                os.environ["KEYAUTHORITY_ADDRESS"],
                operator_key=os.environ["KEYAUTHORITY_OPERATOR_KEY"],
            )
            OPENED["verifier"] = Verifier(client).__enter__()
        return OPENED["verifier"]


def flask() -> Flask:
    """An application that tells whose request it serves."""
    app = Flask(__name__)

    @app.get("/who")
    def who() -> dict[str, Any]:
        verdict = request.environ[CALLER]
        standing = verdict.key_standing
        return {
            "access_key": verdict.access_key,
            "remaining": standing.remaining if standing else None,
            "path": request.path,
        }

    @app.get("/stream")
    def stream() -> Iterator[str]:
        environ = request.environ
        return (f"{environ[CALLER].access_key}\n" for _ in range(2))

    @app.get("/open")
    def unguarded() -> dict[str, Any]:
        verdict = request.environ.get(CALLER)
        return {"access_key": verdict and verdict.access_key}

    return app


def application(place: str, guard: str) -> WSGIApplication:
    """The application of a cell of the matrix."""
    rules = {"GET /open": None, "GET /who": ["orders:read"], "GET /stream": ["orders:read"]}
    guarded: WSGIApplication = flask().wsgi_app
    for _ in range(2 if guard == "nested" else 1):
        guarded = KeyMiddleware(guarded, opened, rules)
    if place == "mount":
        return DispatcherMiddleware(Flask("outer"), {"/v1": guarded})
    return guarded


CELLS: Mapping[str, WSGIApplication] = {
    f"{place}-{guard}": application(place, guard)
    for place in ("app", "mount")
    for guard in ("middleware", "nested")
}


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Serve a request by the application that it names."""
    return CELLS[environ["HTTP_X_CELL"]](environ, start_response)


def gevent_app() -> Any:
    """The same under gevent, which gRPC must be initialised for before its use."""
    import grpc.experimental.gevent

    grpc.experimental.gevent.init_gevent()
    return app
