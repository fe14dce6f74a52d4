"""The gRPC server: native where it is installed, else grpcio's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from keyauthority.endpoint.listen import SOCKET_MODE, Listen
from keyauthority.gateway.envoy import SERVICE
from keyauthority.gateway.v1 import check_pb2 as pb

HEALTH: Final = "grpc.health.v1.Health"
LINGER_SECONDS: Final = 0.3  # for answers to leave the native server, which drops unwritten ones

_SERVED: Final = frozenset({"", SERVICE})
_SERVING: Final = pb.HealthResponse(status=1).SerializeToString()
_NOT_SERVING: Final = pb.HealthResponse(status=2).SerializeToString()
_OPTIONS: Final = (
    ("grpc.so_reuseport", 0),  # a second gateway on the same port must fail
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
)


class GrpcServer:
    """Serves checks and its health."""

    def __init__(
        self, check: Callable[[bytes], Awaitable[bytes]], is_healthy: Callable[[], bool]
    ) -> None:
        self._check = check
        self._is_healthy = is_healthy
        self._open = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._server = _new_server()
        for service, method in ((SERVICE, self._answer), (HEALTH, self._health)):
            handler: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(method)
            self._server.add_registered_method_handlers(service, {"Check": handler})

    async def start(self, address: Listen) -> Listen:
        """Serve on an address, and return it with its port. Raises OSError if it is taken."""
        try:
            port = self._server.add_insecure_port(str(address))
        except RuntimeError as error:
            raise OSError(f"{address}: in use, or not an address of this machine") from error
        await self._server.start()
        if not address.path:
            return address._replace(port=port)
        Path(address.path).chmod(SOCKET_MODE)  # noqa: ASYNC240 - on a local socket
        return address

    async def stop(self, grace: float) -> None:
        """Answer the checks that have begun, and close."""
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._idle.wait()
        await asyncio.sleep(LINGER_SECONDS)
        await self._server.stop(grace)

    async def _answer(self, body: bytes, _: Any) -> bytes:
        self._open += 1
        self._idle.clear()
        try:
            return await self._check(body)
        finally:
            self._open -= 1
            if not self._open:
                self._idle.set()

    async def _health(self, body: bytes, context: Any) -> bytes:
        try:
            service = pb.HealthRequest.FromString(body).service
        except DecodeError:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "malformed request message")
            raise
        if service not in _SERVED:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return _SERVING if self._is_healthy() else _NOT_SERVING


def _new_server() -> grpc.aio.Server:
    try:
        import pygrpc_native.aio as native  # `from pygrpc_native import aio` recurses without end
    except ImportError:
        return grpc.aio.server(options=_OPTIONS)
    return native.server(options=_OPTIONS)
