"""The native front: a server in Rust that hands over unary calls in batches.

Each call is taken one step in the event loop at once, without a task of its own. Most of them end
there: a Verify waits for nothing. What does wait goes on as a task. Streams, health and reflection
are served by the grpcio server behind the front, where readers that have stopped reading harm
nobody; in the front's own streams twenty of them hang the others.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Generator, Mapping
from typing import Any, Final, NamedTuple

import structlog
from google.rpc.code_pb2 import INTERNAL, RESOURCE_EXHAUSTED, UNAVAILABLE
from pygrpc_native import EVENT_CANCEL, NativeGrpcFront

from keyauthority_server.wire import Answer, Call, Refusal

BATCH: Final = 64  # calls taken at once: more would keep other work waiting for some 3 ms
LINGER_SECONDS: Final = 0.3  # writing an answer takes the front less than 1 ms; starved, some more

_log = structlog.get_logger(__name__)


class Limits(NamedTuple):
    """What the front takes."""

    message: int
    metadata: int
    streams: int
    keepalive_ms: int
    keepalive_timeout_ms: int


class Front:
    """Serves unary methods, by their paths, on one address; the rest on a socket behind it."""

    def __init__(
        self, address: str, answers: Mapping[str, Answer], limits: Limits, *, reuse_port: bool
    ) -> None:
        """Bind; OSError if the address is taken."""
        self._front = NativeGrpcFront(
            address,
            [],
            call_details=True,
            delay_stream_headers=True,
            keepalive_time_ms=limits.keepalive_ms,
            keepalive_timeout_ms=limits.keepalive_timeout_ms,
            max_concurrent_streams=limits.streams,
            max_metadata_size=limits.metadata,
            reuse_port=reuse_port,
        )
        numbers = self._front.add_methods([(path, False) for path in answers])
        self._answers = dict(zip(numbers, answers.values(), strict=True))
        self._message_max = limits.message
        self._waiting: dict[int, asyncio.Task[None]] = {}
        self._draining = False

    def start(self, behind: str) -> None:
        """Take calls; those that are not ours go to the socket `behind`."""
        self._front.set_fallback(behind)
        self._front.start()
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._receive, args=(loop,), name="front", daemon=True).start()

    async def drain(self, grace: float) -> None:
        """Refuse new calls, end those that wait, and close when their answers are on their way.

        The front does not tell when an answer that it was given has been written, and closing it
        drops what has not: a call that was carried out would look lost.
        """
        self._draining = True
        if self._waiting:
            _done, late = await asyncio.wait(self._waiting.values(), timeout=grace)
            for task in late:
                task.cancel()
        await asyncio.sleep(LINGER_SECONDS)
        await asyncio.to_thread(self._front.close)

    def _receive(self, loop: asyncio.AbstractEventLoop) -> None:
        while (events := self._front.recv_batch_details(BATCH)) is not None:
            try:
                loop.call_soon_threadsafe(self._take, events)
            except RuntimeError:  # the loop has ended before the front was closed
                self._front.close()
                return

    def _take(self, events: list[tuple[Any, ...]]) -> None:
        for kind, call_id, number, body, _, details in events:
            if kind == EVENT_CANCEL:  # the client has gone, or his deadline has come
                if task := self._waiting.get(call_id):
                    # Not at once: a task that has not run yet would never run, and never end.
                    asyncio.get_running_loop().call_soon(task.cancel)
            elif self._draining:
                self._front.fail(call_id, UNAVAILABLE, "the server is going away")
            elif len(body) > self._message_max:
                self._front.fail(call_id, RESOURCE_EXHAUSTED, "the message is too large")
            else:
                metadata, peer, _ = details
                self._begin(call_id, self._answers[number](body, Call(metadata, peer)))

    def _begin(self, call_id: int, answer: Coroutine[Any, Any, bytes]) -> None:
        try:
            waited = answer.send(None)
        except StopIteration as done:
            self._front.respond(call_id, done.value)
        except Exception as failure:  # noqa: BLE001 - a fault in one call ends no other
            self._fail(call_id, failure)
        else:
            task = asyncio.get_running_loop().create_task(self._go_on(call_id, answer, waited))
            self._waiting[call_id] = task

    async def _go_on(self, call_id: int, answer: Coroutine[Any, Any, bytes], waited: Any) -> None:
        try:
            self._front.respond(call_id, await _Begun(answer, waited))
        except asyncio.CancelledError:
            self._front.fail(call_id, UNAVAILABLE, "the server is going away")
        except Exception as failure:  # noqa: BLE001 - as above
            self._fail(call_id, failure)
        finally:
            del self._waiting[call_id]

    def _fail(self, call_id: int, failure: Exception) -> None:
        if isinstance(failure, Refusal):
            trailing = failure.trailing_metadata
            self._front.fail(call_id, failure.code, failure.message, trailing_metadata=trailing)
        else:
            _log.error("a call failed outside of its interceptor", exc_info=failure)
            self._front.fail(call_id, INTERNAL, "internal error")


class _Begun:
    """Awaits what is left of a coroutine that has been taken one step, up to what it waits for."""

    def __init__(self, coroutine: Coroutine[Any, Any, bytes], waited: Any) -> None:
        self._coroutine = coroutine
        self._waited = waited

    def __await__(self) -> Generator[Any, Any, bytes]:
        waited = self._waited
        try:
            while True:
                try:
                    sent = yield waited
                except BaseException as thrown:  # noqa: BLE001 - to cancel is the coroutine's too
                    waited = self._coroutine.throw(thrown)
                else:
                    waited = self._coroutine.send(sent)
        except StopIteration as done:
            answer: bytes = done.value
            return answer
