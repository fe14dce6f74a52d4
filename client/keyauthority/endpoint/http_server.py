"""The HTTP server: uvicorn in the program's loop, with bounds on requests.

uvicorn itself limits neither the size of the headers nor the time to send them.
"""

from __future__ import annotations

import asyncio
import resource
import socket
from contextlib import suppress
from functools import partial
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_MAX: Final = 64 * 1024  # bytes; proxies send at most that much
HEAD_SECONDS: Final = 10.0  # for the headers of a request
IDLE_SECONDS: Final = 300  # longer than proxies keep idle connections, so that they close first
CONNECTIONS_MAX: Final = 4_000  # some 20 KB each

_TOO_LARGE: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-length: 0\r\nconnection: close\r\n\r\n"
)


def connections_max() -> int:
    """Return how many connections leave descriptors for the rest of the program.

    Raises the limit on descriptors to the greatest possible.
    """
    limit, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS has a lower one of its own
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        limit = hard
    return CONNECTIONS_MAX if limit == resource.RLIM_INFINITY else min(CONNECTIONS_MAX, limit // 4)


class OpenConnections:
    """The open connections of a server: beyond `most` the one unused for longest is cut."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: dict[asyncio.Transport, None] = {}

    def use(self, transport: asyncio.Transport) -> None:
        """Take a connection that is new, or begins a request."""
        self._open.pop(transport, None)
        self._open[transport] = None
        if len(self._open) > self._most:
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.abort()

    def leave(self, transport: asyncio.Transport) -> None:
        """Forget a connection that has ended."""
        self._open.pop(transport, None)


class BoundedProtocol(HttpToolsProtocol):
    """Closes a connection whose headers are too large or too slow."""

    _head = 0
    """Bytes received since the last complete headers."""
    _deadline: asyncio.TimerHandle | None = None

    def __init__(self, *args: Any, opened: OpenConnections, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._opened = opened

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time for the first headers."""
        super().connection_made(transport)
        self._begin()
        self._opened.use(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the time."""
        self._end()
        self._opened.leave(self.transport)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse bytes, and bound those of incomplete headers."""
        self._head += len(data)
        super().data_received(data)
        if self._head > HEAD_MAX and not self.transport.is_closing():
            self.transport.write(_TOO_LARGE)
            self.transport.close()

    def on_message_begin(self) -> None:
        """Start the time for the headers of this request."""
        super().on_message_begin()
        self._begin()
        self._opened.use(self.transport)

    def on_headers_complete(self) -> None:
        """End the time, and start to count again.

        A fragment is no part of a request: uvicorn would drop it, and a requirement in it.
        """
        self._end()
        self._head = 0
        self.url = self.url.replace(b"#", b"%23")
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Bytes of a body are no bytes of headers."""
        self._head = 0
        super().on_body(body)

    def _begin(self) -> None:
        self._end()
        self._deadline = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _end(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def bounded_protocol(most: int) -> Any:
    """Return the protocol of a server with this greatest number of connections."""
    return partial(BoundedProtocol, opened=OpenConnections(most))


class HttpServer:
    """A server on a bound socket; signals are the program's."""

    def __init__(self, app: Any, drain_seconds: int, most: int) -> None:
        """`most` is the greatest number of connections; see `connections_max`."""
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                http=bounded_protocol(most),
                ws="none",
                lifespan="off",
                proxy_headers=False,  # an application reads the client's address
                access_log=False,
                log_config=None,
                log_level="critical",  # each malformed request would be a line
                timeout_keep_alive=IDLE_SECONDS,
                timeout_graceful_shutdown=drain_seconds,
            )
        )

    async def start(self, bound: socket.socket) -> None:
        """Serve on the socket; `uvicorn.Server.serve` without its loop for signals and headers."""
        config = self._server.config
        config.load()
        self._server.lifespan = config.lifespan_class(config)
        await self._server.startup(sockets=[bound])

    async def stop(self, bound: socket.socket) -> None:
        """Answer the requests that have begun, and close."""
        await self._server.shutdown(sockets=[bound])
