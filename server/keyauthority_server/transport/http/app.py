"""Answers requests: Connect's unary calls and streams, `/openapi.json` and `/healthz`.

A request is judged in this order: path, method and headers of HTTP; the form of its credential;
its size; its place among the open calls. Only then does the handler that gRPC shares see it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing
from email.utils import format_datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from keyauthority.clock import Clock
from keyauthority_server.overload import OpenCalls, network_of
from keyauthority_server.overload.errors import (
    ShedCounter,
    ShedReason,
    busy,
    timed_out,
)
from keyauthority_server.rpc_types import JsonBody, RpcError, Services, StreamMethod, UnaryMethod
from keyauthority_server.transport import limits
from keyauthority_server.transport.http import errors
from keyauthority_server.transport.http.errors import JSON, EncodedError
from keyauthority_server.transport.http.messages import (
    END_OF_STREAM,
    Encode,
    envelope,
    inflated,
    json_encoder,
    opened,
)
from keyauthority_server.transport.http.requests import (
    METADATA,
    Bodies,
    Disconnected,
    Receive,
    Request,
    Scope,
)
from keyauthority_server.transport.limits import CallLimits

Send = Callable[[dict[str, Any]], Awaitable[None]]

PROTO: Final = b"application/proto"
STREAM: Final = b"application/connect+json"
OPENAPI: Final = Path(__file__).with_name("openapi.json")
CONVERTED_AT_ONCE: Final = 1  # large responses, in a thread

_NO_STORE: Final = (b"cache-control", b"no-store")  # a response may hold a secret
_STATUS_LINES: Final = {
    True: (200, b'{"status":"SERVING"}'),
    False: (503, b'{"status":"NOT_SERVING"}'),
    None: (404, b'{"status":"SERVICE_UNKNOWN"}'),
}

IsServing = Callable[[str], bool | None]
"""Returns whether a service of `grpc.health.v1.Health` is SERVING; None for an unknown one."""


class _Unary(NamedTuple):
    """A unary method, and how it is served."""

    method: UnaryMethod
    limit: OpenCalls
    encode: Encode


class _Stream(NamedTuple):
    """A streaming method, likewise."""

    method: StreamMethod
    limit: OpenCalls
    encode: Encode


class ConnectApp:
    """An ASGI application on the services of the server."""

    def __init__(
        self,
        services: Services,
        is_serving: IsServing,
        clock: Clock,
        shed: ShedCounter | None,
        headers: Iterable[str] = (),
    ) -> None:
        """`shed` counts the calls that are turned away.

        `headers` become metadata of the calls, beside the credentials.
        """
        self._is_serving = is_serving
        self._shed = shed
        self._date = _Date(clock)
        self._metadata = METADATA | {name.encode(): name for name in headers}
        self._bodies = Bodies()
        self._openapi = OPENAPI.read_bytes()
        turn, calls = asyncio.Semaphore(CONVERTED_AT_ONCE), CallLimits()
        self._methods: dict[bytes, _Unary | _Stream] = {}
        for service, methods in services.items():
            for name, method in methods.items():
                limit, encode = calls.of(service, method), json_encoder(service, name, turn)
                self._methods[f"/{service}/{name}".encode()] = (
                    _Stream(method, limit, encode)
                    if isinstance(method, StreamMethod)
                    else _Unary(method, limit, encode)
                )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Raises nothing but CancelledError."""
        request = Request(scope, receive, self._metadata)
        answer = _Answer(request, send, self._date)
        try:
            await self._serve(request, answer)
        except (asyncio.CancelledError, Disconnected):
            raise
        except TimeoutError:
            await answer.fail(timed_out())
        except Exception as failure:  # noqa: BLE001 - nothing may pass: uvicorn would answer in text
            await answer.fail(failure)

    async def _serve(self, request: Request, answer: _Answer) -> None:
        request.check()
        served = self._methods.get(request.path)
        if request.path in (b"/healthz", b"/openapi.json"):
            if request.method != "GET":
                raise errors.get_only()
            status, body = _STATUS_LINES[self._is_serving(request.health_service)]
            if request.path == b"/openapi.json":
                status, body = 200, self._openapi
            await request.discard()
            await answer.send(status, JSON, body)
        elif request.method != "POST":
            raise errors.post_only()
        elif served is None:
            raise errors.no_method()
        elif isinstance(served, _Stream):
            await self._stream(served, request, answer)
        else:
            await self._unary(served, request, answer)

    async def _unary(self, served: _Unary, request: Request, answer: _Answer) -> None:
        kind = request.content_type
        if kind not in (JSON, PROTO):
            raise errors.unary_types()
        gzip, timeout = request.is_gzip(b"content-encoding"), request.timeout
        async with asyncio.timeout(limits.UNARY_SECONDS if timeout is None else timeout):
            body = await self._body(served.method, request, gzip=gzip)
            network = self._enter(served.limit, request)
            try:
                response = await served.method(
                    JsonBody(body) if kind == JSON else body, request.call
                )
            finally:
                served.limit.leave(network)
            if kind == JSON:
                response = await served.encode(response)
        await answer.send(200, kind, response)

    async def _stream(self, served: _Stream, request: Request, answer: _Answer) -> None:
        if request.content_type != STREAM:
            raise errors.stream_types()
        await answer.begin(200, STREAM)
        failure: Exception | None = None
        try:
            request.is_gzip(b"content-encoding")
            gzip = request.is_gzip(b"connect-content-encoding")
            async with asyncio.timeout(request.timeout):
                await self._follow(served, request, answer, gzip=gzip)
        except (asyncio.CancelledError, Disconnected):
            raise
        except TimeoutError:
            failure = timed_out()
        except Exception as caught:  # noqa: BLE001 - the stream has begun: its end tells
            failure = caught
        await answer.write(envelope(errors.end_of_stream(failure), END_OF_STREAM), last=True)

    async def _follow(
        self, served: _Stream, request: Request, answer: _Answer, *, gzip: bool
    ) -> None:
        body = await self._body(served.method, request, gzip=False)
        message = await opened(body, gzip=gzip) if body else JsonBody()
        network = self._enter(served.limit, request)
        try:
            async with aclosing(served.method.open(message, request.call)) as messages:
                async for response in messages:
                    await answer.write(envelope(await served.encode(response)))
        finally:
            served.limit.leave(network)

    async def _body(
        self, method: UnaryMethod | StreamMethod, request: Request, *, gzip: bool
    ) -> bytes:
        """Return the body of the request; empty for a call that fails without it."""
        if method.rejects_unparsed is not None and method.rejects_unparsed(request.call):
            return b""
        body = await self._bodies.read(request)
        return await inflated(body) if gzip else body

    def _enter(self, limit: OpenCalls, request: Request) -> bytes | str:
        """Count an open call; return the network that must leave."""
        network = network_of(request.call.peer)
        if not limit.enter(network):
            if self._shed is not None:
                self._shed.refused(ShedReason.LANE)
            raise busy()
        return network


class _Answer:
    """The response to one request."""

    def __init__(self, request: Request, send: Send, date: _Date) -> None:
        self._request = request
        self._send = send
        self._date = date
        self._begun = False

    async def send(self, status: int, kind: bytes, body: bytes, *more: tuple[bytes, bytes]) -> None:
        """Send a whole response."""
        await self.begin(status, kind, (b"content-length", b"%d" % len(body)), *more)
        await self.write(body, last=True)

    async def fail(self, failure: Exception) -> None:
        """Send an error; a response that has begun is cut."""
        if self._begun:
            self._request.abort()
            return
        encoded: EncodedError = errors.encode(failure)
        if not _is_timeout(failure):
            await self._request.discard()
        await self.send(encoded.status, JSON, encoded.body, *encoded.headers)

    async def begin(self, status: int, kind: bytes, *more: tuple[bytes, bytes]) -> None:
        """Send the status and headers."""
        self._begun = True
        headers = [(b"content-type", kind), (b"date", self._date.now()), _NO_STORE, *more]
        if not self._request.is_read:
            headers.append((b"connection", b"close"))
        await self._put({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, body: bytes, *, last: bool = False) -> None:
        """Send a piece of the body."""
        await self._put({"type": "http.response.body", "body": body, "more_body": not last})

    async def _put(self, message: dict[str, Any]) -> None:
        """Send a message; cut the connection if the client reads nothing for too long."""
        if not self._request.is_client_slow:
            await self._send(message)
            return
        try:
            async with asyncio.timeout(limits.UNREAD_SECONDS):
                await self._send(message)
        except TimeoutError:
            self._request.abort()
            raise Disconnected from None


def _is_timeout(failure: Exception) -> bool:
    return isinstance(failure, RpcError) and failure.code == timed_out().code


class _Date:
    """The date header, formatted once a second."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._second = -1
        self._text = b""

    def now(self) -> bytes:
        """Return its value."""
        now = self._clock.now()
        if now.second != self._second:
            self._second, self._text = now.second, format_datetime(now, usegmt=True).encode()
        return self._text
