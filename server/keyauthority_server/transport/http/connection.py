"""One connection: uvicorn's HTTP/1.1 protocol, with limits of bytes and time.

A connection is always in one of three places: it waits for a request (`idle`), for the end of the
headers or of its own close (`begun`), or for the app, which has time limits of its own. The tasks
of a connection that is lost are cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from http import HTTPStatus
from typing import Any, Final, cast

import httptools
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from keyauthority_server.overload import Pending, PendingMessages, network_of, peer_name
from keyauthority_server.overload.errors import message_overdue, overloaded
from keyauthority_server.rpc_types import RpcError
from keyauthority_server.transport.http.errors import (
    JSON,
    EncodedError,
    HttpError,
    bad_request,
    encode,
    head_too_large,
)
from keyauthority_server.transport.limits import MESSAGE_SECONDS, descriptors_max
from keyauthority_server.transport.tls import CallerResolver

HEAD_MAX: Final = 8 * 1024  # bytes of a request line and headers: as much as gRPC's metadata
PIPELINED_MAX: Final = 16  # requests of one connection that wait for the one before
IDLE_SECONDS: Final = 75  # longer than proxies keep theirs (60 s), so that these close first
AGE_SECONDS: Final = 60 * 60  # with it ends what the connection was let in by: its certificate
BEGUN_MAX: Final = 4_000  # connections whose request has not come, some 10 KB each
IDLE_MAX: Final = 4_000
PEER_MAX: Final = 1_000  # of one peer in each

_crowded: Final = overloaded("too many connections that send no request")


class HttpConnections(ServerState):
    """The connections of one server, by the place they are in."""

    def __init__(self, config: Config, callers: CallerResolver) -> None:
        super().__init__()
        self.config = config
        self.callers = callers
        share = descriptors_max() // 4
        self.begun = _waiting(min(BEGUN_MAX, share), MESSAGE_SECONDS)
        self.idle = _waiting(min(IDLE_MAX, share), IDLE_SECONDS)
        self.lost = asyncio.Event()
        """Set whenever a connection is lost."""
        self._draining = False

    def accept(self) -> HttpConnection:
        """Return the protocol of a new connection."""
        return HttpConnection(self)

    def made(self, connection: HttpConnection) -> None:
        """Close a connection that was being accepted when the drain began."""
        if self._draining:
            connection.shutdown()

    def drain(self) -> None:
        """Close each connection once its requests have been answered."""
        self._draining = True
        for connection in list(self.connections):
            connection.shutdown()

    async def all_lost(self) -> None:
        """Wait until no connection is left."""
        while self.connections:
            self.lost.clear()
            await self.lost.wait()


def _waiting(most: int, seconds: float) -> PendingMessages:
    return PendingMessages(most, PEER_MAX, seconds, _crowded, message_overdue)


class HttpConnection(HttpToolsProtocol):
    """A connection of a client."""

    def __init__(self, connections: HttpConnections) -> None:
        super().__init__(connections.config, connections, {})
        self._all = connections
        self._place: PendingMessages | None = None
        self._entry: Pending | None = None
        self._network: Hashable = ""
        self._until = 0.0
        self._task: asyncio.Task[None] | None = None
        self._in_headers = True
        self._headers_size = 0
        self._size = 0
        self._refusal: HttpError | None = None
        self._broken = False
        """True when nothing that comes later is read."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expect a request."""
        super().connection_made(transport)
        peer = peer_name(transport.get_extra_info("peername") or ("", 0))
        self._network = network_of(peer)
        self.app_state = {
            "peer": peer,
            "certificates": self._all.callers.of_session(transport.get_extra_info("ssl_object")),
            "abort": transport.abort,
        }
        self._until = self.loop.time() + AGE_SECONDS
        self._move(self._all.begun)
        self._all.made(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel what is being served, and forget what waits."""
        self._move(None)
        self.pipeline.clear()
        self._cancel()
        super().connection_lost(exc)
        self._all.lost.set()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Answer a request that is complete; the client may have closed its side only."""
        newest = self._newest()
        if newest is not None and not newest.more_body and self.scheme == "http":
            self._end_after_response()
            return True
        return False

    def data_received(self, data: bytes) -> None:
        """Read requests. One that is malformed ends the connection, after those before it."""
        if self._broken:
            return
        if self._place is self._all.idle:
            self._move(self._all.begun)
        self._size += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._read_without_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._refuse(self._refusal or bad_request())
        else:
            if self._in_headers and self._size > 2 * HEAD_MAX:
                self._refuse(head_too_large())

    def on_message_begin(self) -> None:
        """Begin to count a request."""
        self._in_headers, self._headers_size, self._size = True, 0, 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Count and keep. A fragment is no part of a request: uvicorn would drop it."""
        self._count(len(url))
        if b"#" in url:
            raise bad_request()
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count and keep; drop trailers, which come after the request was judged."""
        self._count(len(name) + len(value))
        if self._in_headers:
            super().on_header(name, value)

    def _count(self, size: int) -> None:
        self._headers_size += size
        if self._headers_size > HEAD_MAX:
            self._refusal = head_too_large()
            raise self._refusal

    def on_headers_complete(self) -> None:
        """Serve the request, once those before it have been answered."""
        if self._is_upgrade():
            return
        if len(self.pipeline) >= PIPELINED_MAX:
            self._end_after_response()
            raise bad_request()
        self._in_headers = False
        super().on_headers_complete()
        self.scope["state"]["cycle"] = self.cycle
        if self.scope["method"] != "HEAD":  # whose response has no body to wait for
            self.cycle.transport = cast("asyncio.Transport", _OneWrite(self.transport))
        if self.loop.time() > self._until:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        """Tell the app that the body is complete."""
        if not self._in_headers:
            super().on_message_complete()

    def _is_upgrade(self) -> bool:
        """True for a request whose body the parser would skip, since it names another protocol."""
        return bool(self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT")

    def _read_without_upgrade(self, rest: bytes) -> None:
        """Read a request again as if it named no other protocol, and what follows it."""
        if not self._is_upgrade():
            self._end_after_response()
            return
        version = self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
        lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"\r\n".join([*lines, b"", b""]) + rest)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._move(None)
        task = self._task = self.loop.create_task(cycle.run_asgi(app))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def on_response_complete(self) -> None:
        """Wait for the next request, or for the client to read the last response."""
        closing = self.transport.is_closing()
        if closing or not self.pipeline:
            self._move(self._all.begun if closing or self._has_begun() else self._all.idle)
        super().on_response_complete()
        self._unset_keepalive_if_required()  # `idle` has the timer

    def _has_begun(self) -> bool:
        return self._in_headers and self._headers_size > 0

    def _newest(self) -> RequestResponseCycle | None:
        """Return the newest request, unless it has been answered."""
        cycle = cast("RequestResponseCycle | None", self.cycle)
        return None if cycle is None or cycle.response_complete else cycle

    def _end_after_response(self) -> None:
        """Read nothing more, and close when all requests before have been answered."""
        self._broken = True
        newest = self._newest()
        if newest is None:
            self.transport.close()
        else:
            newest.keep_alive = False

    def _refuse(self, refusal: HttpError) -> None:
        """Answer a request that cannot be read, and close."""
        newest = self._newest()
        if newest is not None:
            if self.pipeline or newest.response_started or not newest.more_body:
                self._end_after_response()
                return
            newest.disconnected = True
            self._cancel()
        self._say(refusal)
        self._move(self._all.begun)

    def _say(self, refusal: Exception) -> None:
        """Send an error as the last response, and close.

        Unless TLS forbids it, the client closes first: a connection that is closed with unread
        bytes is reset, and the client may not see the response.
        """
        self._broken = True
        self.transport.write(raw_response(encode(refusal)))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    def _cancel(self) -> None:
        if self._task is not None and not self._task.done():
            self._task.cancel()

    def _move(self, place: PendingMessages | None) -> None:
        """Wait in another place."""
        if self._place is not None and self._entry is not None:
            self._place.leave(self._entry)
        self._place = place
        self._entry = place.enter(self._network, self._end) if place is not None else None

    def _end(self, refusal: RpcError) -> None:
        """Close: the time is over, or another connection needs the place."""
        self._place = self._entry = None
        if self._has_begun() and not self.transport.is_closing():
            self.transport.write(raw_response(encode(refusal)))
        self._cut()

    def shutdown(self) -> None:
        """Close once the requests have been answered; at once if there is none."""
        if self._place is self._all.idle:
            self._cut()
        else:
            super().shutdown()

    def _cut(self) -> None:
        """Close without waiting for the client, which could leave a close of TLS unanswered."""
        self.transport.close()
        self.transport.abort()


class _OneWrite:
    """A transport that sends the headers of a response with the first piece of its body.

    uvicorn writes them apart: two system calls, which cost more than the rest of a response.
    """

    __slots__ = ("_headers", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._headers = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Write, or keep the headers of a final response until the next call."""
        if not self._headers and data.startswith(b"HTTP/1.1 ") and data[9:10] != b"1":
            self._headers = data
        else:
            self._transport.write(self._headers + data)
            self._headers = b""


def raw_response(answer: EncodedError) -> bytes:
    """Return a whole response, after which the connection closes."""
    lines = [b"HTTP/1.1 %d %s" % (answer.status, HTTPStatus(answer.status).phrase.encode())]
    headers = [
        *answer.headers,
        (b"content-type", JSON),
        (b"content-length", b"%d" % len(answer.body)),
        (b"connection", b"close"),
    ]
    lines += [b"%s: %s" % header for header in headers]
    lines += [b"", answer.body]
    return b"\r\n".join(lines)
