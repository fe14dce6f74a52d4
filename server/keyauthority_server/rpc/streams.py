"""Wrappers around a streaming method: as `handlers`, for a stream of messages.

Errors are mapped and ordered as for unary methods: the caller is authenticated before its request
is parsed. The service authenticates the caller again before each message, since a stream may
outlive the caller's right to it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import partial
from typing import Any, Final, Protocol

from google.rpc.code_pb2 import UNAUTHENTICATED

from keyauthority_server.overload import OpenCalls
from keyauthority_server.overload.errors import ShedCounter, ShedReason, busy
from keyauthority_server.overload.throttle import FailureThrottle, too_many
from keyauthority_server.rpc.credentials import credential_of
from keyauthority_server.rpc.handlers import (
    CallMetrics,
    Check,
    count_error,
    require_valid,
    rpc_error_of,
)
from keyauthority_server.rpc.policy import RpcPolicy
from keyauthority_server.rpc.request_reader import RequestReader
from keyauthority_server.rpc_types import Call, RpcError
from keyauthority_server.services import Authenticate, Authority, Principal

STREAMS_MAX: Final = 5_000  # at once in one process, some 40 KB each
CALLER_STREAMS_MAX: Final = 4_000  # of one caller

StreamHandler = Callable[[bytes, Call], AsyncGenerator[bytes]]
Serve = Callable[[Call, bytes], AsyncGenerator[bytes]]
Method = Callable[[Principal, Authenticate, Any], AsyncGenerator[bytes]]
"""Takes the caller, a function that authenticates it again, and the request."""


class StreamMetrics(CallMetrics, Protocol):
    """Counts the streams of one method."""

    def streams(self, number: int) -> None:
        """Count opened streams; negative for ended ones."""
        ...


class StreamHandlers:
    """The open streams of one process. Used in the event loop only."""

    def __init__(
        self, authority: Authority, throttle: FailureThrottle, shed: ShedCounter | None
    ) -> None:
        self._authority = authority
        self._throttle = throttle
        self._shed = shed
        self._open = OpenCalls(STREAMS_MAX, CALLER_STREAMS_MAX)

    def map_errors(self, serve: Serve, metrics: StreamMetrics | None) -> StreamHandler:
        """Return the method with every exception mapped to an RpcError."""

        async def mapped(body: bytes, call: Call) -> AsyncGenerator[bytes]:
            started, delivered = time.perf_counter(), False
            if metrics is not None:
                metrics.streams(1)
            try:
                async with aclosing(serve(call, body)) as messages:
                    async for message in messages:
                        yield message
                        delivered = True
            except (asyncio.CancelledError, GeneratorExit):
                if metrics is not None:
                    metrics.finished("CANCELLED", time.perf_counter() - started)
                raise
            except Exception as failure:  # noqa: BLE001 - the last mapper: nothing may pass it
                rejected = not delivered
                raise count_error(
                    self._error_of(failure, call, rejected=rejected), metrics, started
                ) from None
            else:
                if metrics is not None:
                    metrics.finished("OK", time.perf_counter() - started)
            finally:
                if metrics is not None:
                    metrics.streams(-1)

        return mapped

    def authorize(
        self, policy: RpcPolicy, reader: RequestReader, check: Check, method: Method
    ) -> Serve:
        """Return `method` with authorization and validation; see `handlers.authorize`."""

        async def authorized(call: Call, body: bytes) -> AsyncGenerator[bytes]:
            credential = credential_of(call)

            authenticate = partial(
                self._authority.with_current_peppers,
                *(self._authority.authenticate, credential, policy.rights),
            )
            caller = await authenticate()
            request = reader.read(body)
            require_valid(check, request)
            if not self._open.enter(caller.actor):
                raise self._count_shed(ShedReason.LANE, busy())
            try:
                async with aclosing(method(caller, authenticate, request)) as messages:
                    async for message in messages:
                        yield message
            finally:
                self._open.leave(caller.actor)

        return authorized

    def _error_of(self, failure: Exception, call: Call, *, rejected: bool) -> RpcError:
        """Return the status of an exception; `rejected` if it came before the first message."""
        mapped = failure if isinstance(failure, RpcError) else rpc_error_of(failure)
        if mapped.code == UNAUTHENTICATED and rejected and not self._throttle.take(call.peer):
            return self._count_shed(ShedReason.PEER, too_many())
        return mapped

    def _count_shed(self, reason: ShedReason, shed: RpcError) -> RpcError:
        if self._shed is not None:
            self._shed.refused(reason)
        return shed
