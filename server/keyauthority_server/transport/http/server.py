"""The HTTP server of one process: its socket, certificates, and end."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from uvicorn import Config as UvicornConfig

from keyauthority.clock import SystemClock
from keyauthority_server.certificates import TlsMaterial
from keyauthority_server.config import Config, HostPort, TransientError
from keyauthority_server.overload.errors import ShedCounter
from keyauthority_server.rpc_types import Services, StreamMethod
from keyauthority_server.transport.http.app import ConnectApp, IsServing
from keyauthority_server.transport.http.connection import HttpConnections
from keyauthority_server.transport.limits import HANDSHAKE_SECONDS, MESSAGE_SECONDS
from keyauthority_server.transport.tls import CallerResolver, FollowedFiles, server_context

BACKLOG: Final = 1_024
SILENT: Final = logging.CRITICAL + 1  # uvicorn logs a line for each malformed request


class HttpServer:
    """Serves the given services on one address."""

    def __init__(
        self,
        config: Config,
        address: HostPort,
        services: Services,
        is_serving: IsServing,
        shed: ShedCounter | None = None,
        headers: Iterable[str] = (),
    ) -> None:
        """Bind. TransientError if the address cannot be had, ConfigError for its certificate.

        For `shed` and `headers` see `ConnectApp`.
        """
        clock = SystemClock()
        app = ConnectApp(services, is_serving, clock, shed, headers)
        uvicorn = UvicornConfig(
            app,
            interface="asgi3",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level=SILENT,
            access_log=False,
            proxy_headers=False,
        )
        uvicorn.load()
        self._connections = HttpConnections(uvicorn, CallerResolver(config.callers))
        self._streams = [
            method
            for methods in services.values()
            for method in methods.values()
            if isinstance(method, StreamMethod)
        ]
        self._context: ssl.SSLContext | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._files = FollowedFiles(config.tls, clock, self._take_over) if config.tls else None
        self._following: asyncio.Task[None] | None = None
        self._server: asyncio.Server | None = None
        try:
            self._socket = _bound(address)
        except OSError as error:
            raise TransientError(f"cannot listen on {address}: {error}") from error

    async def start(self) -> None:
        """Take requests."""
        self._loop = asyncio.get_running_loop()
        await self._listen()
        if self._files is not None:
            self._following = asyncio.create_task(self._files.follow())

    async def drain(self, grace: float) -> None:
        """Stop accepting requests, and end when those admitted have been answered.

        After `grace` seconds the connections that are still open are cut.
        """
        if self._following is not None:
            self._following.cancel()
        if self._server is not None:
            self._server.close()
        self._socket.close()
        for method in self._streams:
            method.end()
        self._connections.drain()
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._connections.all_lost()
        for connection in list(self._connections.connections):
            connection.transport.abort()

    def _take_over(self, material: TlsMaterial) -> None:
        """Make handshakes with these from now on; ConfigError if OpenSSL refuses them."""
        self._context = server_context(material, "http/1.1")
        if self._loop is not None:
            asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()

    async def _listen(self) -> None:
        """Accept connections with the present certificates; open ones keep theirs."""
        before = self._server
        self._server = await asyncio.get_running_loop().create_server(
            self._connections.accept,
            sock=self._socket.dup(),
            backlog=BACKLOG,
            ssl=self._context,
            ssl_handshake_timeout=HANDSHAKE_SECONDS if self._context else None,
            ssl_shutdown_timeout=MESSAGE_SECONDS if self._context else None,
        )
        if before is not None:
            before.close()


def _bound(address: HostPort) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # all workers join
        bound.bind((address.host, address.port))
    except OSError:
        bound.close()
        raise
    bound.setblocking(False)
    return bound
