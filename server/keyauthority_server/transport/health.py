"""grpc.health.v1.Health of one process, which serves from its start until it drains.

The library's servicer keeps a watcher until the watcher goes; this one lets him go when all has
been said, so that he does not hold up the drain.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

SERVICE: Final = "grpc.health.v1.Health"

_Response = health_pb2.HealthCheckResponse
_SERVING: Final = _Response(status=_Response.SERVING).SerializeToString()
_NOT_SERVING: Final = _Response(status=_Response.NOT_SERVING).SerializeToString()
_UNKNOWN: Final = _Response(status=_Response.SERVICE_UNKNOWN).SerializeToString()

_Context = grpc.aio.ServicerContext[Any, Any]


class Health:
    """The health of the services named, and of the server as a whole under the empty name."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = frozenset({"", *services})
        self._draining = asyncio.Event()

    def drain(self) -> None:
        """Say NOT_SERVING from now on, and let the watchers go."""
        self._draining.set()

    def handlers(self) -> Mapping[str, grpc.RpcMethodHandler[Any, Any]]:
        """Return the handlers by method. They take bytes: what cannot be read is theirs to say."""
        return {
            "Check": grpc.unary_unary_rpc_method_handler(self._check),
            "Watch": grpc.unary_stream_rpc_method_handler(self._watch),
        }

    def _status(self, service: str) -> bytes:
        if service not in self._services:
            return _UNKNOWN
        return _NOT_SERVING if self._draining.is_set() else _SERVING

    async def _check(self, body: bytes, context: _Context) -> bytes:
        status = self._status(await _service(body, context))
        if status is _UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return status

    async def _watch(self, body: bytes, context: _Context) -> AsyncIterator[bytes]:
        service = await _service(body, context)
        first = self._status(service)
        yield first
        await self._draining.wait()
        last = self._status(service)
        if last is not first:  # it began before the drain did
            yield last


async def _service(body: bytes, context: _Context) -> str:
    try:
        return health_pb2.HealthCheckRequest.FromString(body).service
    except DecodeError:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the bytes are no message")
