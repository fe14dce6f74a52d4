"""The server of one process: the native front or grpcio, with the limits that both keep."""

from __future__ import annotations

import asyncio
import importlib.util
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio

from keyauthority_server.config import Config, ConfigError, Listen, Transport, UnixPath
from keyauthority_server.transport.health import SERVICE as HEALTH
from keyauthority_server.transport.health import Health
from keyauthority_server.transport.reflection import SERVICES as REFLECTION
from keyauthority_server.transport.reflection import Reflection
from keyauthority_server.wire import Answer, Call, Refusal, Services

MESSAGE_MAX: Final = 4 * 1024 * 1024  # bytes; gRPC's default, and twice a full BatchVerify
METADATA_MAX: Final = 8 * 1024  # bytes; gRPC's default. A credential takes 100
STREAMS_MAX: Final = 1000  # calls at once on one connection
KEEPALIVE_MS: Final = 60_000  # ping silent connections: those of clients that vanished are closed
KEEPALIVE_TIMEOUT_MS: Final = 20_000

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MESSAGE_MAX),
    # Between two different limits grpcio would refuse at random.
    ("grpc.max_metadata_size", METADATA_MAX),
    ("grpc.absolute_max_metadata_size", METADATA_MAX),
    ("grpc.max_concurrent_streams", STREAMS_MAX),
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    # What clients may ping: gRPC's default of 5 minutes would cut those that keep NAT entries open.
    # The front takes all pings, on loopback.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    # A connection that says nothing is closed; grpcio's default is 2 minutes, as is the front's.
    ("grpc.server_handshake_timeout_ms", 20_000),
)
_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}

_Handlers = Mapping[str, "grpc.RpcMethodHandler[Any, Any]"]  # no generic at run time


class Server:
    """Serves the given services, health, and reflection if it is wanted, on one address."""

    def __init__(self, config: Config, services: Services) -> None:
        """Bind. ConfigError if the transport cannot be had or the address is taken."""
        self.transport = choose(config.transport, config.listen)
        self._health = Health(services)
        self._reflection = None if config.no_reflection else Reflection([*services, HEALTH])
        reuse_port = not isinstance(config.listen, UnixPath)  # the supervisor has made sure of it
        self._grpcio = grpc.aio.server(options=[*_OPTIONS, ("grpc.so_reuseport", int(reuse_port))])
        self._front = None
        self._folder = tempfile.TemporaryDirectory(prefix="keyauthority-")
        try:
            if self.transport is Transport.NATIVE:
                self._front = _front(str(config.listen), services, reuse_port=reuse_port)
            else:
                for name, answers in services.items():
                    self._serve(name, {method: _handler(one) for method, one in answers.items()})
                self._grpcio.add_insecure_port(str(config.listen))
        except (RuntimeError, OSError) as error:
            raise ConfigError(f"cannot listen on {config.listen}: {error}") from error
        self._serve(HEALTH, self._health.handlers())
        if self._reflection:
            for name in REFLECTION:
                self._serve(name, self._reflection.handlers())

    async def start(self) -> None:
        """Take calls."""
        if self._front is None:
            await self._grpcio.start()
            return
        behind = Path(self._folder.name) / "behind"
        self._grpcio.add_insecure_port(f"unix:{behind}")
        await self._grpcio.start()
        self._front.start(str(behind))

    async def drain(self, grace: float) -> None:
        """Say NOT_SERVING, take no more calls, and end when those admitted have been answered.

        After `grace` seconds the calls that are still open are cut.
        """
        self._health.drain()
        if self._reflection:
            self._reflection.drain()
        if self._front is not None:
            await self._front.drain(grace)
        await self._grpcio.stop(grace)
        self._folder.cleanup()

    def _serve(self, service: str, handlers: _Handlers) -> None:
        self._grpcio.add_registered_method_handlers(service, dict(handlers))


def choose(transport: Transport, listen: Listen) -> Transport:
    """Return the transport to take: native or grpcio. ConfigError if it is not installed."""
    installed = importlib.util.find_spec("pygrpc_native") is not None
    if transport is Transport.NATIVE and not installed:
        raise ConfigError("--transport native needs pygrpc-native: install keyauthority[native]")
    if transport is Transport.AUTO:
        return Transport.NATIVE if installed and listen.is_local else Transport.GRPCIO
    return transport


def loop_factory(config: Config) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes the event loop that the transport runs best on; None for Python's own.

    uvloop saves the native front a seventh of a Verify; it comes with the same extra.
    """
    if choose(config.transport, config.listen) is not Transport.NATIVE:
        return None
    if importlib.util.find_spec("uvloop") is None:
        return None
    import uvloop  # an extra: not everybody has it

    return uvloop.new_event_loop


def _front(address: str, services: Services, *, reuse_port: bool) -> Any:
    from keyauthority_server.transport.native import Front, Limits  # an extra: not all have it

    answers = {
        f"/{service}/{name}": answer
        for service, answers in services.items()
        for name, answer in answers.items()
    }
    limits = Limits(MESSAGE_MAX, METADATA_MAX, STREAMS_MAX, KEEPALIVE_MS, KEEPALIVE_TIMEOUT_MS)
    return Front(address, answers, limits, reuse_port=reuse_port)


def _handler(answer: Answer) -> grpc.RpcMethodHandler[Any, Any]:
    async def handle(body: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        metadata = tuple(context.invocation_metadata() or ())
        try:
            return await answer(body, Call(metadata, context.peer()))
        except Refusal as raised:
            refusal = raised
        code, trailing = _CODES[refusal.code], refusal.trailing_metadata
        return await context.abort(code, refusal.message, trailing)

    return grpc.unary_unary_rpc_method_handler(handle)
