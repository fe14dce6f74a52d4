"""Streams on grpcio, which serves them on both transports, and how they end when the server does.

grpcio cannot end the stream of a client that has stopped reading: a status would wait behind the
message that he does not take. Such a stream is cut with the server, when all others are done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Any, Final

import grpc
import grpc.aio

from keyauthority_server.config import Listen, UnixPath
from keyauthority_server.wire import Answer, Call, Refusal, Streaming, unexpected

STALLED_SECONDS: Final = 2.0  # a client that reads has taken the end of his stream long before
LINGER_SECONDS: Final = 0.5  # writing an answer takes grpcio less than 1 ms; starved, some more
CODES: Final = {code.value[0]: code for code in grpc.StatusCode}

_Context = grpc.aio.ServicerContext[Any, Any]


async def abort(context: _Context, refusal: Refusal) -> None:
    """End the call with a refusal. The handler must return at once: grpcio then ends the call.

    grpcio keeps the exception that it raises with the call, and its traceback would keep the call
    and the request: a cycle.
    """
    try:
        await context.abort(CODES[refusal.code], refusal.message, refusal.trailing_metadata)
    except grpc.aio.AbortError as aborted:
        aborted.__traceback__ = aborted.__context__ = None


class Streams:
    """The streams that are open in this process."""

    def __init__(self, read: Callable[[_Context], Call]) -> None:
        """`read` tells of a call what it says of itself."""
        self._read = read
        self._served: list[Streaming] = []
        self._open = _Open()

    def handler(self, streaming: Streaming) -> grpc.RpcMethodHandler[Any, Any]:
        """Return the method as grpcio takes it."""
        self._served.append(streaming)

        async def handle(body: bytes, context: _Context) -> None:
            with self._open:
                try:
                    async with aclosing(streaming.open(body, self._call(context))) as messages:
                        async for message in messages:
                            await context.write(message)
                except Refusal as refusal:
                    await abort(context, refusal)

        return grpc.unary_stream_rpc_method_handler(handle)

    def _call(self, context: _Context) -> Call:
        try:
            return self._read(context)
        except Exception as failure:  # noqa: BLE001 - grpcio would send its text to the client
            raise unexpected(failure) from None

    async def end(self) -> bool:
        """End them, and wait for those that are read; False if some are not."""
        for one in self._served:
            one.end()
        try:
            await asyncio.wait_for(self._open.none.wait(), STALLED_SECONDS)
        except TimeoutError:
            return False
        return True


class Calls:
    """The unary calls that grpcio is answering."""

    def __init__(self) -> None:
        self._open = _Open()

    def around(self, answer: Answer) -> Answer:
        """Return the method so that its calls are known."""

        async def known(body: bytes, call: Call) -> bytes:
            with self._open:
                return await answer(body, call)

        return known

    async def answered(self) -> None:
        """Wait until there is none, and what was answered last is on its way."""
        await self._open.none.wait()
        await asyncio.sleep(LINGER_SECONDS)


class _Open:
    """Counts those that are inside."""

    def __init__(self) -> None:
        self._inside = 0
        self.none = asyncio.Event()
        self.none.set()

    def __enter__(self) -> None:
        self._inside += 1
        self.none.clear()

    def __exit__(self, *_: object) -> None:
        self._inside -= 1
        if not self._inside:
            self.none.set()


def from_behind(read: Callable[[_Context], Call], listen: Listen) -> Callable[[_Context], Call]:
    """Return `read` for calls that the native front passes on: their own peer is the front.

    It serves this machine only, whose processes may call from any address that the machine has. So
    what can be said of the peer is the address that he has called; nothing that he sends counts.
    """
    peer = "unix:"
    if not isinstance(listen, UnixPath) and listen.is_local:
        peer = f"ipv6:[{listen.host}]:0" if ":" in listen.host else "ipv4:127.0.0.1:0"
    return lambda context: read(context)._replace(peer=peer)
