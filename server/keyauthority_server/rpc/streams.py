"""What happens around a call that is answered by a stream: as `interceptors`, for many messages.

The same mapper judges what went wrong, and the same order of errors holds: the caller is admitted
before his message is looked at. He is admitted again before each of the stream's messages, by the
use case, since a stream may outlive his right to it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, Final, Protocol

from google.rpc.code_pb2 import UNAUTHENTICATED

from keyauthority_server.keyring import UnknownVersion
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

Open = Callable[[bytes, Call], AsyncGenerator[bytes]]
Follow = Callable[[Call, bytes], AsyncGenerator[bytes]]
Method = Callable[[Principal, Authenticate, Any], AsyncGenerator[bytes]]
"""Given the caller, what judges him anew, and the request."""


class StreamMetrics(CallMetrics, Protocol):
    """Counts the streams of one method."""

    def streams(self, number: int) -> None:
        """Count streams that were opened; less than 0 for those that have ended."""
        ...


class Streams:
    """The streams of one process. Used in the event loop only."""

    def __init__(
        self, authority: Authority, peers: FailureThrottle, tally: ShedCounter | None
    ) -> None:
        self._authority = authority
        self._peers = peers
        self._tally = tally
        self._open = OpenCalls(STREAMS_MAX, CALLER_STREAMS_MAX)

    def around(self, follow: Follow, metrics: StreamMetrics | None) -> Open:
        """Return the method as a transport takes it: bytes in, bytes and at last a Refusal out."""

        async def opened(body: bytes, call: Call) -> AsyncGenerator[bytes]:
            started, told = time.perf_counter(), False
            if metrics is not None:
                metrics.streams(1)
            try:
                async with aclosing(follow(call, body)) as messages:
                    async for message in messages:
                        yield message
                        told = True
            except (asyncio.CancelledError, GeneratorExit):
                if metrics is not None:
                    metrics.finished("CANCELLED", time.perf_counter() - started)
                raise
            except Exception as failure:  # noqa: BLE001 - the last mapper: nothing may pass it
                raise count_error(self._refusal_of(failure, call, told), metrics, started) from None
            else:
                if metrics is not None:
                    metrics.finished("OK", time.perf_counter() - started)
            finally:
                if metrics is not None:
                    metrics.streams(-1)

        return opened

    def guard(self, row: RpcPolicy, reader: RequestReader, check: Check, method: Method) -> Follow:
        """Return `method` behind its admission and its check; see `interceptors.guard`."""

        async def admitted(call: Call, body: bytes) -> AsyncGenerator[bytes]:
            credential = credential_of(call)

            async def admit() -> Principal:
                try:
                    return await self._authority.authenticate(credential, row.rights)
                except UnknownVersion:  # of the pepper that he was digested under meanwhile
                    return await self._authority.with_current_peppers(
                        lambda: self._authority.authenticate(credential, row.rights)
                    )

            caller = await admit()
            request = reader.read(body)
            require_valid(check, request)
            if not self._open.enter(caller.actor):
                raise self._turned_away(ShedReason.LANE, busy())
            try:
                async with aclosing(method(caller, admit, request)) as messages:
                    async for message in messages:
                        yield message
            finally:
                self._open.leave(caller.actor)

        return admitted

    def _refusal_of(self, failure: Exception, call: Call, told: bool) -> RpcError:
        refusal = failure if isinstance(failure, RpcError) else rpc_error_of(failure)
        if refusal.code == UNAUTHENTICATED and not told and not self._peers.take(call.peer):
            return self._turned_away(ShedReason.PEER, too_many())
        return refusal

    def _turned_away(self, ground: ShedReason, refusal: RpcError) -> RpcError:
        if self._tally is not None:
            self._tally.refused(ground)
        return refusal
