"""The server of one process: the native front or grpcio, with the limits that both keep."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import grpc
import grpc.aio

from keyauthority.clock import SystemClock
from keyauthority_server.config import Config, ConfigError, TransientError, Transport, UnixPath
from keyauthority_server.overload import OpenCalls
from keyauthority_server.overload.errors import URGENT, ShedCounter
from keyauthority_server.rpc_types import Call, Services, StreamMethod, UnaryMethod
from keyauthority_server.transport.gate import MESSAGE_MAX, Gate, Read, Unknown
from keyauthority_server.transport.health import SERVICE as HEALTH
from keyauthority_server.transport.health import CanAnswer, Health
from keyauthority_server.transport.reflection import SERVICES as REFLECTION
from keyauthority_server.transport.reflection import Reflection
from keyauthority_server.transport.streams import Inside, Streams, from_behind
from keyauthority_server.transport.tls import Callers, Handshakes

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

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", READ_MAX),
    # Between two different limits grpcio would refuse at random.
    ("grpc.max_metadata_size", METADATA_MAX),
    ("grpc.absolute_max_metadata_size", METADATA_MAX),
    ("grpc.max_concurrent_streams", STREAMS_MAX),
    # Beyond it grpcio ends calls at random, from a twentieth of it on unless told otherwise.
    ("grpc.server.max_pending_requests", UNBEGUN_MAX),
    ("grpc.server.max_pending_requests_hard_limit", UNBEGUN_MAX),
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    # What clients may ping: gRPC's default of 5 minutes would cut those that keep NAT entries open.
    # The front takes all pings, on loopback.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    # A connection that says nothing is closed; grpcio's default is 2 minutes, as is the front's.
    ("grpc.server_handshake_timeout_ms", 20_000),
)
# Of connections that clients have, not of the front's own.
_CLIENTS_OPTIONS: Final = (
    # With the age ends what a connection was let in by: the certificates of its handshake. Clients
    # go over to a new connection without a failed call; grpcio spreads the moment by a tenth.
    ("grpc.max_connection_age_ms", 60 * 60 * 1000),
    ("grpc.max_connection_age_grace_ms", UNARY_SECONDS * 1000),
    ("grpc.max_connection_idle_ms", 15 * 60 * 1000),
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
        """Return the limits. On a unix socket or behind the native front all peers are one."""
        limits = (
            (CALLS_MAX, CALLS_MAX // 2),
            (URGENT_MAX, URGENT_MAX // 2),
            (WATCHES_MAX, WATCHES_MAX // 2),
            (CHECKS_MAX, CHECKS_MAX // 2),
            (HEALTH_WATCHES_MAX, HEALTH_WATCHES_MAX // 10),
            (REFLECTIONS_MAX, REFLECTIONS_MAX // 10),
        )
        return cls(*(OpenCalls(most, share if apart else most) for most, share in limits))


class Server:
    """Serves the given services, health, and reflection if it is wanted, on one address."""

    def __init__(
        self,
        config: Config,
        services: Services,
        tally: ShedCounter | None = None,
        can_answer: CanAnswer | None = None,
    ) -> None:
        """Bind. ConfigError if transport or certificate cannot be had.

        TransientError if the address cannot be had, which the supervisor holds.

        `tally` counts the calls that the transport turns away; health follows `can_answer`.
        """
        self.transport = choose(config)
        self._handshakes = Handshakes(config.tls, SystemClock()) if config.tls else None
        self._listen, self._socket_mode = config.listen, int(config.socket_mode, 8)
        self._following: list[asyncio.Task[None]] = []
        native = self.transport is Transport.NATIVE
        read = _reader(Callers(config.callers))
        read = from_behind(read, config.listen) if native else read
        self._gate = Gate(read, UNARY_SECONDS, tally)
        apart = not native and not isinstance(config.listen, UnixPath)
        self._limits = _Limits.of_peers(apart=apart)
        self._streams = Streams()
        self._calls = Inside()
        self._health = Health(services, can_answer)
        self._reflection = None if config.no_reflection else Reflection([*services, HEALTH])
        reuse_port = not isinstance(config.listen, UnixPath)  # the supervisor has made sure of it
        options = [*_OPTIONS, *(() if native else _CLIENTS_OPTIONS)]
        self._grpcio = grpc.aio.server(options=[*options, ("grpc.so_reuseport", int(reuse_port))])
        self._front = None
        self._folder = tempfile.TemporaryDirectory(prefix="keyauthority-")
        try:
            if native:
                self._front = _front(config, services, tally, self._streams.inside)
            else:
                with _closed_socket():
                    self._bind(str(config.listen))
        except (RuntimeError, OSError) as error:
            raise TransientError(f"cannot listen on {config.listen}: {error}") from error
        for name, methods in services.items():
            self._serve(name, dict(self._handlers(methods)))
        self._grpcio.add_generic_rpc_handlers((Unknown(),))
        self._serve(HEALTH, self._gated(self._health.handlers()))
        if self._reflection:
            for name in REFLECTION:
                self._serve(name, self._gated(self._reflection.handlers()))

    async def start(self) -> None:
        """Take calls."""
        if self._handshakes is not None:
            self._following.append(asyncio.create_task(self._handshakes.follow()))
        self._following.append(asyncio.create_task(self._health.follow()))
        if self._front is None:
            await self._grpcio.start()
            self._open_socket()
            return
        behind = Path(self._folder.name) / "behind"
        self._grpcio.add_insecure_port(f"unix:{behind}")
        await self._grpcio.start()
        with _closed_socket():
            self._front.start(str(behind))
        self._open_socket()

    async def drain(self, grace: float) -> None:
        """Say NOT_SERVING, take no more calls, and end when those admitted have been answered.

        After `grace` seconds the calls that are still open are cut.
        """
        self._health.drain()
        if self._reflection:
            self._reflection.drain()
        if self._front is not None:
            await self._streams.end()
            await self._front.drain(grace)
        await self._stop(grace)
        for task in self._following:
            task.cancel()
        self._folder.cleanup()

    async def _stop(self, grace: float) -> None:
        """Stop accepting calls; return when all but unread streams are answered."""
        stopping = asyncio.create_task(self._grpcio.stop(grace))
        if not await self._streams.end():
            answered = asyncio.create_task(self._calls.answered())
            await asyncio.wait({stopping, answered}, return_when=asyncio.FIRST_COMPLETED)
            answered.cancel()
            await self._grpcio.stop(None)
        await stopping

    def _handlers(
        self, methods: Mapping[str, UnaryMethod | StreamMethod]
    ) -> Iterator[tuple[str, grpc.RpcMethodHandler[Any, Any]]]:
        """Return the handlers of a service; none on the native transport, which serves it."""
        limits = self._limits
        for name, method in methods.items():
            refuses = method.rejects_unparsed
            if isinstance(method, StreamMethod):
                self._streams.add(method)
                if self._front is not None:
                    continue
                follow = _without_context(method.open)
                inside = self._streams.inside
                yield name, self._gate.stream(follow, limits.watches, inside, refuses)
            elif self._front is None:
                serve = _without_context(method)
                limit = limits.urgent if name in URGENT else limits.calls
                yield name, self._gate.unary(serve, limit, self._calls, refuses)

    def _gated(self, handlers: _Handlers) -> _Handlers:
        """Return the handlers of health or reflection behind the gate."""
        limits = self._limits
        classes = {"Check": limits.checks, "List": limits.checks, "Watch": limits.health_watches}
        return {
            name: self._gate.wrap(handler, classes.get(name, limits.reflections))
            for name, handler in handlers.items()
        }

    def _bind(self, address: str) -> None:
        if self._handshakes is None:
            self._grpcio.add_insecure_port(address)
        else:
            self._grpcio.add_secure_port(address, self._handshakes.credentials)

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
        plain = config.listen.is_local and config.tls is None
        return Transport.NATIVE if installed and plain else Transport.GRPCIO
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


def _front(config: Config, services: Services, tally: ShedCounter | None, inside: Inside) -> Any:
    from keyauthority_server.transport.native import (  # an extra: not all have it
        NativeLimits,
        NativeServer,
    )

    unary: dict[str, UnaryMethod] = {}
    streams: dict[str, StreamMethod] = {}
    for service, methods in services.items():
        for name, method in methods.items():
            if isinstance(method, StreamMethod):
                streams[f"/{service}/{name}"] = method
            else:
                unary[f"/{service}/{name}"] = method
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
        str(config.listen),
        unary,
        limits,
        reuse_port=not isinstance(config.listen, UnixPath),
        tally=tally,
        streams=streams,
        inside=inside,
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
