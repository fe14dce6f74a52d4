"""grpc.health.v1.Health of one process: SERVING while it can answer, until it drains.

The library's servicer keeps a watch until its client ends it; this one ends it after the last
status, so that it does not delay the drain.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from typing import Any, Final

import structlog
from google.protobuf.message import DecodeError
from google.rpc.code_pb2 import NOT_FOUND
from grpc_health.v1 import health_pb2

from keyauthority_server.overload.errors import malformed_message
from keyauthority_server.rpc_types import Call, RpcError, StreamMethod, UnaryMethod

SERVICE: Final = "grpc.health.v1.Health"
CHANGES: Final = "keyauthority.changes"
"""The name under which the ability to commit changes is asked for; Verify may outlive it."""

ASK_SECONDS: Final = 0.25  # between two questions, each one look at the store
ANSWER_SECONDS: Final = 1.25  # many times what a look takes; both together are below 2 s

CanAnswer = Callable[[], Awaitable[bool]]
CanChange = Callable[[], bool]

_log = structlog.get_logger(__name__)

_messages: Any = health_pb2  # its types lack those of List
_Response = health_pb2.HealthCheckResponse
_SERVING: Final = _Response(status=_Response.SERVING)
_NOT_SERVING: Final = _Response(status=_Response.NOT_SERVING)
_UNKNOWN: Final = _Response(status=_Response.SERVICE_UNKNOWN)
_STATUSES: Final = {True: _SERVING, False: _NOT_SERVING, None: _UNKNOWN}


class Health:
    """The health of the services named, of CHANGES, and of the whole server under no name."""

    def __init__(
        self,
        services: Iterable[str],
        can_answer: CanAnswer | None = None,
        can_change: CanChange = lambda: True,
    ) -> None:
        """`can_answer` and `can_change` are asked again and again by `follow`."""
        self._services = frozenset({"", CHANGES, *services})
        self._can_answer = can_answer
        self._can_change = can_change
        self._serving = self._changing = True
        self._draining = False
        self._changed = asyncio.Event()

    async def follow(self) -> None:
        """Keep the status true, until it is cancelled."""
        while self._can_answer is not None:
            serving = False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ANSWER_SECONDS):
                    serving = await self._can_answer()
            changing = self._can_change()
            if (serving, changing) != (self._serving, self._changing):
                well = serving and changing
                (_log.info if well else _log.warning)("health", serving=serving, changes=changing)
                self._serving, self._changing = serving, changing
                self._tell()
            await asyncio.sleep(ASK_SECONDS)

    def is_serving(self, service: str) -> bool | None:
        """Return whether the status of a service is SERVING; None for an unknown one."""
        if service not in self._services:
            return None
        able = self._serving and (self._changing or service != CHANGES)
        return able and not self._draining

    def drain(self) -> None:
        """Say NOT_SERVING from now on, and let the watchers go."""
        self._draining = True
        self._tell()

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def methods(self) -> Mapping[str, UnaryMethod | StreamMethod]:
        """Return the methods by name."""
        return {
            "Check": UnaryMethod(self._check),
            "List": UnaryMethod(self._list),
            "Watch": StreamMethod(self._watch, self.drain),
        }

    def _status(self, service: str) -> health_pb2.HealthCheckResponse:
        return _STATUSES[self.is_serving(service)]

    async def _check(self, body: bytes, _: Call) -> bytes:
        status = self._status(_service(body))
        if status is _UNKNOWN:
            raise RpcError(NOT_FOUND, "unknown service")
        return status.SerializeToString()

    async def _list(self, body: bytes, _: Call) -> bytes:
        try:
            _messages.HealthListRequest.FromString(body)
        except DecodeError:
            raise malformed_message() from None
        statuses = {name: self._status(name) for name in self._services}
        answer: bytes = _messages.HealthListResponse(statuses=statuses).SerializeToString()
        return answer

    async def _watch(self, body: bytes, _: Call) -> AsyncGenerator[bytes]:
        service = _service(body)
        last = None
        while True:
            changed, status = self._changed, self._status(service)
            if status is not last:
                yield status.SerializeToString()
                last = status
            elif self._draining:
                return
            else:
                await changed.wait()


def _service(body: bytes) -> str:
    try:
        return health_pb2.HealthCheckRequest.FromString(body).service
    except DecodeError:
        raise malformed_message() from None
