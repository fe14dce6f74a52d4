"""The server of one process: the native front or grpcio, with the limits that both keep."""

from __future__ import annotations

import asyncio
import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

import grpc
import grpc.aio

from keyauthority.clock import SystemClock
from keyauthority_server.config import (
    Config,
    ConfigError,
    HostPort,
    Listen,
    TransientError,
    Transport,
    UnixPath,
)
from keyauthority_server.overload import OpenCalls
from keyauthority_server.overload.errors import ShedCounter, TransportCounter
from keyauthority_server.rpc_types import Call, Services, StreamMethod, UnaryMethod
from keyauthority_server.transport.gate import (
    CUT_SECONDS,
    MESSAGE_MAX,
    MESSAGE_SECONDS,
    Gate,
    Read,
    Unknown,
)
from keyauthority_server.transport.health import SERVICE as HEALTH
from keyauthority_server.transport.health import CanAnswer, CanChange, Health
from keyauthority_server.transport.origins import Origins
from keyauthority_server.transport.reflection import SERVICES as REFLECTION
from keyauthority_server.transport.reflection import Reflection
from keyauthority_server.transport.socket_folder import SocketFolder
from keyauthority_server.transport.streams import Inside, Streams, from_behind
from keyauthority_server.transport.tls import Callers, FollowedFiles
from keyauthority_server.transport.tls_connection import ConnectionLimits
from keyauthority_server.transport.tls_front import HANDSHAKE_SECONDS, TlsFront
from keyauthority_server.transport.tls_grpcio import Handshakes

# Bytes of a message that grpcio reads. It refuses larger ones without details; those between this
# and MESSAGE_MAX the gate refuses, with ErrorInfo.
READ_MAX: Final = 2 * MESSAGE_MAX
METADATA_MAX: Final = 8 * 1024  # bytes; gRPC's default. A credential takes 100
STREAMS_MAX: Final = (
    1000  # calls at once on one connection; beyond it grpcio's client sees failures
)
UNBEGUN_MAX: Final = 20_000  # calls of one method that grpcio has not begun, some 10 KB each
UNARY_SECONDS: Final = 60  # for a call whose client has set no deadline: twice the longest drain
CALLS_MAX: Final = 10_000  # unary calls at once in one process, over all connections
URGENT_MAX: Final = 2_000  # RevokeKey beside them
WATCHES_MAX: Final = 6_000  # streams of WatchChanges, some 40 KB each
CHECKS_MAX: Final = 2_000  # unary calls of health
HEALTH_WATCHES_MAX: Final = 1_000
REFLECTIONS_MAX: Final = 200
KEEPALIVE_MS: Final = 60_000  # ping silent connections: those of clients that vanished are closed
KEEPALIVE_TIMEOUT_MS: Final = 20_000
IDLE_SECONDS: Final = 15 * 60
AGE_SECONDS: Final = 60 * 60
HELD_MAX: Final = 64 * 1024 * 1024  # bytes of incomplete requests on one connection

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", READ_MAX),
    # Between two different limits grpcio would refuse at random.
    ("grpc.max_metadata_size", METADATA_MAX),
    ("grpc.absolute_max_metadata_size", METADATA_MAX),
    ("grpc.max_concurrent_streams", STREAMS_MAX),
    # Beyond it grpcio ends calls at random, from a twentieth of it on unless configured otherwise.
    ("grpc.server.max_pending_requests", UNBEGUN_MAX),
    ("grpc.server.max_pending_requests_hard_limit", UNBEGUN_MAX),
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    # What clients may ping: gRPC's default of 5 minutes would cut those that keep NAT entries open.
    # The front takes all pings, on loopback.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    # A connection that says nothing is closed; grpcio's default is 2 minutes, as is the front's.
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_SECONDS * 1000),
)
# Of connections that clients have, not of the front's own.
_CLIENTS_OPTIONS: Final = (
    # With the age ends what a connection was let in by: the certificates of its handshake. Clients
    # go over to a new connection without a failed call; grpcio spreads the moment by a tenth.
    ("grpc.max_connection_age_ms", AGE_SECONDS * 1000),
    ("grpc.max_connection_age_grace_ms", UNARY_SECONDS * 1000),
    ("grpc.max_connection_idle_ms", IDLE_SECONDS * 1000),
)
_Context = grpc.aio.ServicerContext[Any, Any]
T = TypeVar("T")
_Handlers = Mapping[str, "grpc.RpcMethodHandler[Any, Any]"]  # no generic at run time


class _Limits(NamedTuple):
    """The open calls of each class that grpcio serves."""

    calls: OpenCalls
    urgent: OpenCalls
    watches: OpenCalls
    checks: OpenCalls
    health_watches: OpenCalls
    reflections: OpenCalls

    @classmethod
    def of_peers(cls, *, apart: bool) -> _Limits:
        """Return the limits. In plaintext on the native transport all peers are one."""
        limits = (
            (CALLS_MAX, CALLS_MAX // 2),
            (URGENT_MAX, URGENT_MAX // 2),
            (WATCHES_MAX, WATCHES_MAX // 2),
            (CHECKS_MAX, CHECKS_MAX // 2),
            (HEALTH_WATCHES_MAX, HEALTH_WATCHES_MAX // 10),
            (REFLECTIONS_MAX, REFLECTIONS_MAX // 10),
        )
        return cls(*(OpenCalls(most, share if apart else most) for most, share in limits))

    def of(self, service: str, method: UnaryMethod | StreamMethod) -> OpenCalls:
        """Return the limit of a method."""
        if isinstance(method, StreamMethod):
            return self.health_watches if service == HEALTH else self.watches
        if service == HEALTH:
            return self.checks
        return self.urgent if method.urgent else self.calls


class Server:
    """Serves the given services, health, and reflection if it is wanted, on one address."""

    def __init__(
        self,
        config: Config,
        services: Services,
        tally: TransportCounter | None = None,
        can_answer: CanAnswer | None = None,
        can_change: CanChange = lambda: True,
    ) -> None:
        """Bind. ConfigError if transport or certificate cannot be had.

        TransientError if the address cannot be had, which the supervisor holds.

        `tally` counts the calls that the transport turns away; health follows `can_answer` and
        `can_change`.
        """
        self.transport = choose(config)
        self._files: FollowedFiles | None = None
        self._listen, self._socket_mode = config.listen, int(config.socket_mode, 8)
        self._following: list[asyncio.Task[None]] = []
        native = self.transport is Transport.NATIVE
        callers = Callers(config.callers)
        read = _reader(callers)
        read = from_behind(read, config.listen) if native else read
        self._gate = Gate(read, UNARY_SECONDS, tally)
        apart = not isinstance(config.listen, UnixPath) and not (native and config.tls is None)
        self._limits = _Limits.of_peers(apart=apart)
        self._streams = Streams()
        self._calls = Inside()
        self.health = Health(services, can_answer, can_change)
        services = {**services, HEALTH: self.health.methods()}
        self._reflection = None if config.no_reflection else Reflection(services)
        reuse_port = not isinstance(config.listen, UnixPath)  # the supervisor has made sure of it
        options = [*_OPTIONS, *(() if native else _CLIENTS_OPTIONS)]
        self._grpcio = grpc.aio.server(options=[*options, ("grpc.so_reuseport", int(reuse_port))])
        self._front: Any = None
        self._tls: TlsFront | None = None
        self._sockets = SocketFolder(config.data)
        try:
            self._bind(config, callers, services, tally)
        except (RuntimeError, OSError) as error:
            raise TransientError(f"cannot listen on {config.listen}: {error}") from error
        for name, methods in services.items():
            self._serve(name, dict(self._handlers(name, methods)))
        self._grpcio.add_generic_rpc_handlers((Unknown(),))
        if self._reflection:
            gate = partial(self._gate.conversation, limit=self._limits.reflections)
            for name in REFLECTION:
                handlers = self._reflection.handlers()
                self._serve(name, {method: gate(one) for method, one in handlers.items()})

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
            self._open_socket()
            return
        behind = self._sockets.path("grpcio")
        self._grpcio.add_insecure_port(f"unix:{behind}")
        await self._grpcio.start()
        with _closed_socket():
            self._front.start(str(behind))
        if self._tls is not None:
            self._tls.start(self._sockets.path("front"))
        self._open_socket()

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
        await self._stop(grace)
        for task in self._following:
            task.cancel()
        self._sockets.remove()

    async def _stop(self, grace: float) -> None:
        """Stop accepting calls; return when all but unread streams are answered."""
        stopping = asyncio.create_task(self._grpcio.stop(grace + CUT_SECONDS))
        unread = not await self._streams.end()
        answered = asyncio.create_task(self._calls.answered())
        await asyncio.wait({stopping, answered}, timeout=grace, return_when=asyncio.FIRST_COMPLETED)
        await self._gate.cut()
        answered.cancel()
        if unread:
            await self._grpcio.stop(None)
        await stopping

    def _bind(
        self,
        config: Config,
        callers: Callers,
        services: Services,
        tally: TransportCounter | None,
    ) -> None:
        listen, origins = config.listen, None
        if self.transport is Transport.NATIVE:
            if config.tls and isinstance(listen, HostPort):
                self._tls = TlsFront(listen, _connection_limits(), callers, tally)
                self._files = FollowedFiles(config.tls, SystemClock(), self._tls.take_over)
                listen, origins = UnixPath(self._sockets.path("front")), self._tls.origins
            watches = {f"/{HEALTH}/Watch": self._limits.health_watches}
            self._front = _front(listen, services, watches, tally, self._streams.inside, origins)
        elif config.tls:
            handshakes = Handshakes(config.tls, SystemClock())
            self._files = handshakes.files
            self._grpcio.add_secure_port(str(listen), handshakes.credentials)
        else:
            with _closed_socket():
                self._grpcio.add_insecure_port(str(listen))

    def _handlers(
        self, service: str, methods: Mapping[str, UnaryMethod | StreamMethod]
    ) -> Iterator[tuple[str, grpc.RpcMethodHandler[Any, Any]]]:
        """Return the handlers of a service; none on the native transport, which serves it."""
        for name, method in methods.items():
            limit, refuses = self._limits.of(service, method), method.rejects_unparsed
            if isinstance(method, StreamMethod):
                self._streams.add(method)
                if self._front is not None:
                    continue
                follow = _without_context(method.open)
                inside = self._streams.inside
                yield name, self._gate.stream(follow, limit, inside, refuses)
            elif self._front is None:
                serve = _without_context(method)
                yield name, self._gate.unary(serve, limit, self._calls, refuses)

    def _open_socket(self) -> None:
        """Give a unix socket its mode, now that it takes calls."""
        if isinstance(self._listen, UnixPath):
            self._listen.path.chmod(self._socket_mode)

    def _serve(self, service: str, handlers: _Handlers) -> None:
        self._grpcio.add_registered_method_handlers(service, dict(handlers))


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
    if choose(config) is not Transport.NATIVE:
        return None
    if importlib.util.find_spec("uvloop") is None:
        return None
    import uvloop  # an extra: not everybody has it

    return uvloop.new_event_loop


def _connection_limits() -> ConnectionLimits:
    """Return the limits that grpcio keeps for a connection, for the TLS endpoint."""
    return ConnectionLimits(
        message=MESSAGE_MAX,
        held=HELD_MAX,
        preface_seconds=HANDSHAKE_SECONDS,
        message_seconds=MESSAGE_SECONDS,
        unread_seconds=(KEEPALIVE_MS + KEEPALIVE_TIMEOUT_MS) / 1000,
        idle_seconds=IDLE_SECONDS,
        age_seconds=AGE_SECONDS,
        grace_seconds=UNARY_SECONDS,
    )


def _front(
    listen: Listen,
    services: Services,
    stream_limits: Mapping[str, OpenCalls],
    tally: ShedCounter | None,
    inside: Inside,
    origins: Origins | None,
) -> Any:
    from keyauthority_server.transport.native import (  # an extra: not all have it
        NativeLimits,
        NativeServer,
    )

    methods = {
        f"/{service}/{name}": method
        for service, of_service in services.items()
        for name, method in of_service.items()
    }
    limits = NativeLimits(
        MESSAGE_MAX,
        METADATA_MAX,
        STREAMS_MAX,
        CALLS_MAX,
        UNARY_SECONDS,
        KEEPALIVE_MS,
        KEEPALIVE_TIMEOUT_MS,
    )
    return NativeServer(
        str(listen),
        {path: one for path, one in methods.items() if isinstance(one, UnaryMethod)},
        limits,
        reuse_port=not isinstance(listen, UnixPath),
        tally=tally,
        streams={path: one for path, one in methods.items() if isinstance(one, StreamMethod)},
        stream_limits=stream_limits,
        inside=inside,
        origins=origins,
    )


def _reader(callers: Callers) -> Read:
    """Return what tells of a call what it says of itself."""
    if not callers:
        return lambda context: Call(tuple(context.invocation_metadata() or ()), context.peer())

    def read(context: _Context) -> Call:
        metadata = tuple(context.invocation_metadata() or ())
        return Call(metadata, context.peer(), callers.of(context.auth_context()))

    return read


def _without_context(serve: Callable[[bytes, Call], T]) -> Callable[[bytes, Call, _Context], T]:
    return lambda body, call, _: serve(body, call)
