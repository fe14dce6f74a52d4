"""The grpcio server: the fallback for the native one, and behind it for reflection."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, Final

import grpc
import grpc.aio

from keyauthority_server.config import Listen, UnixPath
from keyauthority_server.overload import OpenCalls
from keyauthority_server.overload.errors import ShedCounter
from keyauthority_server.rpc_types import Call, StreamMethod, UnaryMethod
from keyauthority_server.transport import limits
from keyauthority_server.transport.gate import CUT_SECONDS, Gate, Read, Unknown
from keyauthority_server.transport.limits import CallLimits
from keyauthority_server.transport.streams import InFlight, OpenStreams
from keyauthority_server.transport.tls import CallerResolver

# Bytes of a message that grpcio reads. It refuses larger ones without details; those between this
# and MESSAGE_MAX the gate refuses, with ErrorInfo.
READ_MAX: Final = 2 * limits.MESSAGE_MAX
UNBEGUN_MAX: Final = 20_000  # calls of one method that grpcio has not begun, some 10 KB each

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", READ_MAX),
    # Between two different limits grpcio would refuse at random.
    ("grpc.max_metadata_size", limits.METADATA_MAX),
    ("grpc.absolute_max_metadata_size", limits.METADATA_MAX),
    ("grpc.max_concurrent_streams", limits.CONNECTION_CALLS_MAX),
    # Beyond it grpcio ends calls at random, from a twentieth of it on unless configured otherwise.
    ("grpc.server.max_pending_requests", UNBEGUN_MAX),
    ("grpc.server.max_pending_requests_hard_limit", UNBEGUN_MAX),
    ("grpc.keepalive_time_ms", limits.KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", limits.KEEPALIVE_TIMEOUT_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    # What clients may ping: gRPC's default of 5 minutes would cut those that keep NAT entries open.
    # The front takes all pings, on loopback.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.server_handshake_timeout_ms", limits.HANDSHAKE_SECONDS * 1000),
)
# Of connections that clients have, not of the front's own.
_CLIENTS_OPTIONS: Final = (
    # With the age ends what a connection was let in by: the certificates of its handshake. Clients
    # go over to a new connection without a failed call; grpcio spreads the moment by a tenth.
    ("grpc.max_connection_age_ms", limits.AGE_SECONDS * 1000),
    ("grpc.max_connection_age_grace_ms", limits.UNARY_SECONDS * 1000),
    ("grpc.max_connection_idle_ms", limits.IDLE_SECONDS * 1000),
)
_Context = grpc.aio.ServicerContext[Any, Any]


class GrpcioServer:
    """Serves the methods added to it; refuses the calls of all others."""

    def __init__(
        self,
        read: Read,
        streams: OpenStreams,
        shed: ShedCounter | None,
        *,
        reuse_port: bool,
        has_clients: bool,
    ) -> None:
        """`read` and `shed` are those of the gate.

        Without `has_clients` only the native server connects, which keeps the limits of
        connections itself.
        """
        self._gate = Gate(read, shed)
        self._streams = streams
        self._calls = InFlight()
        options = [*_OPTIONS, *(_CLIENTS_OPTIONS if has_clients else ())]
        self._server = grpc.aio.server(options=[*options, ("grpc.so_reuseport", int(reuse_port))])
        self._server.add_generic_rpc_handlers((Unknown(),))

    def bind(self, address: str, credentials: grpc.ServerCredentials | None = None) -> None:
        """Bind an address, with TLS if there are credentials; RuntimeError if it is taken."""
        if credentials is None:
            self._server.add_insecure_port(address)
        else:
            self._server.add_secure_port(address, credentials)

    def add(
        self,
        service: str,
        methods: Mapping[str, UnaryMethod | StreamMethod],
        call_limits: CallLimits,
    ) -> None:
        """Serve the methods of a service, each within the limit of its class."""
        handlers = {}
        for name, method in methods.items():
            limit, refuses = call_limits.of(service, method), method.rejects_unparsed
            if isinstance(method, StreamMethod):
                in_flight = self._streams.in_flight
                handlers[name] = self._gate.stream(method.open, limit, in_flight, refuses)
            else:
                handlers[name] = self._gate.unary(method, limit, self._calls, refuses)
        self._server.add_registered_method_handlers(service, handlers)

    def add_conversations(
        self,
        services: Iterable[str],
        handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]],
        limit: OpenCalls,
    ) -> None:
        """Serve methods of streams in both directions, the same under each of these names."""
        limited = {
            name: self._gate.conversation(handler, limit) for name, handler in handlers.items()
        }
        for service in services:
            self._server.add_registered_method_handlers(service, limited)

    async def start(self) -> None:
        """Take calls."""
        await self._server.start()

    async def drain(self, grace: float) -> None:
        """Stop accepting calls; return when all but unread streams are answered."""
        stopping = asyncio.create_task(self._server.stop(grace + CUT_SECONDS))
        unread = not await self._streams.end()
        answered = asyncio.create_task(self._calls.answered())
        await asyncio.wait({stopping, answered}, timeout=grace, return_when=asyncio.FIRST_COMPLETED)
        await self._gate.cut()
        answered.cancel()
        if unread:
            await self._server.stop(None)
        await stopping


def reader(callers: CallerResolver) -> Read:
    """Return a function that reads metadata, peer and certificate of a call."""

    def read(context: _Context) -> Call:
        certificates = callers.of_grpcio(context.auth_context()) if callers else ()
        return Call(tuple(context.invocation_metadata() or ()), context.peer(), certificates)

    return read


def from_front(read: Read, listen: Listen) -> Read:
    """Return `read` for calls that the native server passes on: their own peer is that server.

    It serves this machine only, whose processes may call from any address that the machine has. So
    the peer is the address that it has called; nothing that it sends counts.
    """
    peer = "unix:"
    if not isinstance(listen, UnixPath) and listen.is_local:
        peer = f"ipv6:[{listen.host}]:0" if ":" in listen.host else "ipv4:127.0.0.1:0"
    return lambda context: read(context)._replace(peer=peer)
