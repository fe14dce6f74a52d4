"""The gate of the grpcio server: each call is counted before its message is waited for.

grpcio runs the handler of a method that takes a stream as soon as the call is opened, and of one
that takes a message only when that has come. So every method is served as if it took a stream, of
which the first message is read: on the wire there is no difference.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, aclosing, contextmanager
from typing import Any, Final

import grpc
import grpc.aio

from keyauthority.errors import ErrorReason, error
from keyauthority_server.overload import OpenCalls, PendingMessages, network_of
from keyauthority_server.overload.errors import (
    ShedCounter,
    ShedReason,
    busy,
    message_overdue,
    message_too_large,
    overloaded,
    prepared,
    shutting_down,
    timed_out,
    unread,
)
from keyauthority_server.rpc_types import Call, RpcError, internal_error
from keyauthority_server.transport import limits

CUT_SECONDS: Final = 1  # to tell the calls that are cut why
CODES: Final = {code.value[0]: code for code in grpc.StatusCode}

_NO_MESSAGE: Final = b"\x07"  # malformed as a message of any type

_Context = grpc.aio.ServicerContext[Any, Any]
_Handler = grpc.RpcMethodHandler  # no generic at run time
Read = Callable[[_Context], Call]
Refuses = Callable[[Call], bool]
Serve = Callable[[bytes, Call], Awaitable[bytes]]
Follow = Callable[[bytes, Call], AsyncGenerator[bytes]]
InFlight = AbstractContextManager[None]
"""The context of a call while it is served."""

_unknown: Final = prepared(error(ErrorReason.UNIMPLEMENTED, "the server has no such method"))
_crowded: Final = overloaded("too many calls whose message has not come")


class Gate:
    """Lets calls in. The calls of all classes share one; `limit` is that of a class."""

    def __init__(self, read: Read, shed: ShedCounter | None) -> None:
        """`read` reads metadata and peer of a call; `shed` counts calls that are turned away.

        A unary call whose client has set no deadline ends after `limits.UNARY_SECONDS`.
        """
        self._read = read
        self._shed = shed
        self._ending: set[asyncio.Task[None]] = set()
        self._serving: set[asyncio.Task[Any]] = set()
        self._cutting = False
        self._pending = PendingMessages(
            *(limits.PENDING_MAX, limits.PENDING_OF_PEER_MAX, limits.MESSAGE_SECONDS),
            *(_crowded, message_overdue),
        )

    def unary(
        self, serve: Serve, limit: OpenCalls, in_flight: InFlight, refuses: Refuses | None = None
    ) -> _Handler[Any, Any]:
        """Return a method that answers with one message, as grpcio takes it.

        `refuses` is true of a call refused without its message, which is then not awaited.
        """

        async def handle(_: object, context: _Context) -> bytes:
            try:
                call = self._read(context)
                body = b"" if refuses and refuses(call) else await self._message(context, call)
                self._enter(call, limit)
                with in_flight, self._cuttable():
                    if context.time_remaining() is not None:
                        return await serve(body, call)
                    async with asyncio.timeout(limits.UNARY_SECONDS):
                        return await serve(body, call)
            except TimeoutError:
                await abort(context, timed_out())
            except asyncio.CancelledError:  # otherwise the client has gone, or its deadline passed
                if not self._cutting:
                    raise
                await abort(context, shutting_down())
            except Exception as failure:  # noqa: BLE001 - grpcio would send its text to the client
                await _end(context, failure)
            return b""

        return grpc.stream_unary_rpc_method_handler(handle)

    def stream(
        self, follow: Follow, limit: OpenCalls, in_flight: InFlight, refuses: Refuses | None = None
    ) -> _Handler[Any, Any]:
        """Return a method that answers with a stream, likewise."""

        async def handle(_: object, context: _Context) -> None:
            try:
                call = self._read(context)
                body = b"" if refuses and refuses(call) else await self._message(context, call)
                self._enter(call, limit)
                with in_flight:
                    read = await _written(context, follow(body, call))
                if not read:
                    await abort(context, unread())
            except Exception as failure:  # noqa: BLE001 - as above
                await _end(context, failure)

        return grpc.stream_stream_rpc_method_handler(handle)

    async def cut(self) -> None:
        """End the unary calls that are still served, as the drain's grace period is over."""
        self._cutting = True
        for task in self._serving:
            task.cancel()
        if self._serving:
            await asyncio.wait(self._serving, timeout=CUT_SECONDS)

    @contextmanager
    def _cuttable(self) -> Iterator[None]:
        task = _task()
        self._serving.add(task)
        try:
            yield
        finally:
            self._serving.discard(task)

    def conversation(self, handler: _Handler[Any, Any], limit: OpenCalls) -> _Handler[Any, Any]:
        """Return a method of streams in both directions, which reads its own messages."""
        follow: Any = handler.stream_stream

        async def handle(requests: object, context: _Context) -> None:
            try:
                self._enter(self._read(context), limit)
                async with aclosing(follow(requests, context)) as messages:
                    async for message in messages:
                        await context.write(message)
            except Exception as failure:  # noqa: BLE001 - as above
                await _end(context, failure)

        return grpc.stream_stream_rpc_method_handler(
            handle, response_serializer=handler.response_serializer
        )

    def _enter(self, call: Call, limit: OpenCalls) -> None:
        """Count the call until grpcio is done with it, its answer sent; raise if it is too much.

        Not by the context's own callback, which makes a cycle of references.
        """
        peer = network_of(call.peer)
        if not limit.enter(peer):
            if self._shed is not None:
                self._shed.refused(ShedReason.LANE)
            raise busy()
        _task().add_done_callback(lambda _: limit.leave(peer))

    async def _message(self, context: _Context, call: Call) -> bytes:
        """Wait for the message of a call; AbortError if it was ended meanwhile.

        It is ended from outside: to cancel what waits in grpcio would free what it still uses.
        """

        def end(refusal: RpcError) -> None:
            ending = asyncio.create_task(abort(context, refusal))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

        pending = self._pending.enter(network_of(call.peer), end)
        try:
            body: Any = await context.read()
        finally:
            self._pending.leave(pending)
        if body is grpc.aio.EOF:
            return _NO_MESSAGE
        if len(body) > limits.MESSAGE_MAX:
            raise message_too_large()
        message: bytes = body
        return message


async def _written(context: _Context, messages: AsyncGenerator[bytes]) -> bool:
    """Write the messages; False if the client does not read.

    Nothing of the stream is held then: its status waits in grpcio until the client goes.
    """
    async with aclosing(messages):
        async for message in messages:
            try:
                async with asyncio.timeout(limits.UNREAD_SECONDS):
                    await context.write(message)
            except TimeoutError:
                return False
    return True


class Unknown(grpc.GenericRpcHandler):
    """Refuses the calls of methods that are not served, at once."""

    def service(self, details: object) -> _Handler[Any, Any]:
        """Return what refuses the call; its message is not waited for."""
        return grpc.stream_unary_rpc_method_handler(_refuse_unknown)


async def _refuse_unknown(_: object, context: _Context) -> bytes:
    await abort(context, _unknown())
    return b""


async def abort(context: _Context, refusal: RpcError) -> None:
    """End the call with a refusal. The handler must return at once: grpcio then ends the call.

    grpcio keeps the exception that it raises with the call, and its traceback would keep the call
    and the request: a cycle. It raises InternalError for a client that has gone.
    """
    try:
        await context.abort(CODES[refusal.code], refusal.message, refusal.trailing_metadata)
    except grpc.aio.AbortError as aborted:
        _forget(aborted)
    except grpc.aio.InternalError:
        return


async def _end(context: _Context, failure: Exception) -> None:
    """End the call for an exception; InternalError is grpcio's, for a client that has gone."""
    if isinstance(failure, grpc.aio.AbortError):
        _forget(failure)
    elif not isinstance(failure, grpc.aio.InternalError):
        refusal = failure if isinstance(failure, RpcError) else internal_error(failure)
        await abort(context, refusal)


def _forget(aborted: grpc.aio.AbortError) -> None:
    aborted.__traceback__ = aborted.__context__ = None


def _task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - grpcio runs each handler in one; tells mypy so
    return task
