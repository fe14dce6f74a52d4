"""The server of one address: the native server or grpcio, health, reflection, and their end."""

from __future__ import annotations

import asyncio
import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from keyauthority.clock import SystemClock
from keyauthority_server.config import (
    Config,
    ConfigError,
    HostPort,
    TransientError,
    Transport,
    UnixPath,
)
from keyauthority_server.overload.errors import TransportCounter
from keyauthority_server.rpc_types import Services, StreamMethod, UnaryMethod
from keyauthority_server.transport.grpcio import GrpcioServer, from_front, reader
from keyauthority_server.transport.health import SERVICE as HEALTH
from keyauthority_server.transport.health import CanAnswer, CanChange, Health
from keyauthority_server.transport.limits import CallLimits
from keyauthority_server.transport.reflection import SERVICES as REFLECTION
from keyauthority_server.transport.reflection import Reflection
from keyauthority_server.transport.socket_folder import SocketFolder
from keyauthority_server.transport.streams import OpenStreams
from keyauthority_server.transport.tls import CallerResolver, FollowedFiles
from keyauthority_server.transport.tls_front import TlsFront
from keyauthority_server.transport.tls_grpcio import Handshakes


class Server:
    """Serves the given services, health, and reflection if it is wanted, on one address."""

    def __init__(
        self,
        config: Config,
        services: Services,
        shed: TransportCounter | None = None,
        can_answer: CanAnswer | None = None,
        can_change: CanChange = lambda: True,
    ) -> None:
        """Bind. ConfigError if transport or certificate cannot be had.

        TransientError if the address cannot be had, which the supervisor holds.

        `shed` counts the calls that the transport turns away; health follows `can_answer` and
        `can_change`.
        """
        self.transport = choose(config)
        self._files: FollowedFiles | None = None
        self._listen, self._socket_mode = config.listen, int(config.socket_mode, 8)
        self._following: list[asyncio.Task[None]] = []
        native, on_unix = self.transport is Transport.NATIVE, isinstance(config.listen, UnixPath)
        callers = CallerResolver(config.callers)
        # In plaintext on the native transport all peers are one.
        self._limits = CallLimits(apart=not on_unix and not (native and config.tls is None))
        self.health = Health(services, can_answer, can_change)
        services = {**services, HEALTH: self.health.methods()}
        self._streams = OpenStreams(
            method
            for methods in services.values()
            for method in methods.values()
            if isinstance(method, StreamMethod)
        )
        self._grpcio = GrpcioServer(
            from_front(reader(callers), config.listen) if native else reader(callers),
            self._streams,
            shed,
            reuse_port=not on_unix,  # the supervisor has made sure of it
            has_clients=not native,
        )
        self._front: Any = None
        self._tls: TlsFront | None = None
        self._sockets = SocketFolder(config.data)
        try:
            self._bind(config, callers, services, shed)
        except (RuntimeError, OSError) as error:
            raise TransientError(f"cannot listen on {config.listen}: {error}") from error
        self._reflection = None if config.no_reflection else Reflection(services)
        if self._reflection:
            handlers, limit = self._reflection.handlers(), self._limits.reflections
            self._grpcio.add_conversations(REFLECTION, handlers, limit)

    @property
    def certificate_end(self) -> datetime | None:
        """When the certificate of new connections expires; None in plaintext."""
        return None if self._files is None else self._files.end

    async def start(self) -> None:
        """Take calls."""
        if self._files is not None:
            self._following.append(asyncio.create_task(self._files.follow()))
        self._following.append(asyncio.create_task(self.health.follow()))
        if self._front is None:
            await self._grpcio.start()
        else:
            behind = self._sockets.path("grpcio")
            self._grpcio.bind(f"unix:{behind}")
            await self._grpcio.start()
            with _closed_socket():
                self._front.start(str(behind))
            if self._tls is not None:
                self._tls.start(self._sockets.path("front"))
        if isinstance(self._listen, UnixPath):  # now that it takes calls
            self._listen.path.chmod(self._socket_mode)

    async def drain(self, grace: float) -> None:
        """Say NOT_SERVING, accept no further calls, and end when those admitted have been answered.

        After `grace` seconds the calls that are still open are cut.
        """
        self.health.drain()
        if self._reflection:
            self._reflection.drain()
        if self._tls is not None:
            self._tls.leave()
        if self._front is not None:
            await self._streams.end()
            await self._front.drain(grace)
        if self._tls is not None:
            await self._tls.end()
        await self._grpcio.drain(grace)
        for task in self._following:
            task.cancel()
        self._sockets.remove()

    def _bind(
        self,
        config: Config,
        callers: CallerResolver,
        services: Services,
        shed: TransportCounter | None,
    ) -> None:
        listen = config.listen
        if self.transport is Transport.NATIVE:
            if config.tls and isinstance(listen, HostPort):
                self._tls = TlsFront(listen, callers, shed)
                self._files = FollowedFiles(config.tls, SystemClock(), self._tls.take_over)
                listen = UnixPath(self._sockets.path("front"))
            self._front = self._native(str(listen), services, shed)
            return
        for name, methods in services.items():
            self._grpcio.add(name, methods, self._limits)
        if config.tls:
            handshakes = Handshakes(config.tls, SystemClock())
            self._files = handshakes.files
            self._grpcio.bind(str(listen), handshakes.credentials)
        else:
            with _closed_socket():
                self._grpcio.bind(str(listen))

    def _native(self, address: str, services: Services, shed: TransportCounter | None) -> Any:
        from keyauthority_server.transport.native import NativeServer  # an extra: not all have it

        unary: dict[str, UnaryMethod] = {}
        streams: dict[str, StreamMethod] = {}
        for service, methods in services.items():
            for name, method in methods.items():
                path = f"/{service}/{name}"
                if isinstance(method, StreamMethod):
                    streams[path] = method
                else:
                    unary[path] = method
        return NativeServer(
            address,
            unary,
            reuse_port=not address.startswith("unix:"),
            shed=shed,
            streams=streams,
            stream_limits={f"/{HEALTH}/Watch": self._limits.health_watches},
            in_flight=self._streams.in_flight,
            origins=None if self._tls is None else self._tls.origins,
        )


@contextmanager
def _closed_socket() -> Iterator[None]:
    """Create the unix socket so that no other user can connect before its mode is set."""
    before = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(before)


def choose(config: Config) -> Transport:
    """Return the transport to take: native or grpcio. ConfigError if it is not installed."""
    transport = config.transport
    installed = importlib.util.find_spec("pygrpc_native") is not None
    if transport is Transport.NATIVE and not installed:
        raise ConfigError("--transport native needs pygrpc-native: install keyauthority[native]")
    if transport is Transport.AUTO:
        served = config.listen.is_local or config.tls is not None
        return Transport.NATIVE if installed and served else Transport.GRPCIO
    return transport


def loop_factory(config: Config) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes the event loop that the transport runs best on; None for Python's own.

    uvloop saves the native front a seventh of a Verify; it comes with the same extra.
    """
    if choose(config) is not Transport.NATIVE or importlib.util.find_spec("uvloop") is None:
        return None
    import uvloop  # an extra: not everybody has it

    return uvloop.new_event_loop
