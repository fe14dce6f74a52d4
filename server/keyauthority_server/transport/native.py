"""The native front: a server in Rust that hands over calls in batches.

Each call is taken one step in the event loop at once, without a task of its own. Most of them end
there: a Verify waits for nothing. What does wait goes on as a task. Health and reflection are
served by the grpcio server behind the front. Watches are not: passed on, each would hold up
to 5 MiB that its client has not read.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Coroutine, Generator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from types import MappingProxyType
from typing import Any, Final

from pygrpc_native import EVENT_CALL, EVENT_CANCEL, NativeGrpcFront

from keyauthority_server.overload import OpenCalls, network_of
from keyauthority_server.overload.errors import (
    ShedCounter,
    ShedReason,
    busy,
    message_too_large,
    shutting_down,
    timed_out,
)
from keyauthority_server.rpc_types import (
    DEFERRED,
    Call,
    Certificate,
    Metadata,
    RpcError,
    StreamMethod,
    UnaryMethod,
    internal_error,
)
from keyauthority_server.transport import limits
from keyauthority_server.transport.compressed import GZIP, inflated
from keyauthority_server.transport.native_streams import NativeStreams
from keyauthority_server.transport.origins import Origin, Origins

BATCH: Final = 64  # calls taken at once: more would keep other work waiting for some 3 ms
WAIT_SECONDS: Final = 0.25  # of calls for the loop: what clients bear, and a slow second is not yet
WAITING_MIN: Final = 256  # calls: with fewer the loop may just have stood still for so long
STALL_SECONDS: Final = 1.0  # of a batch or more; not even a machine that is busy otherwise takes it
TURN_SECONDS: Final = 0.005  # of calls in a row, before the loop has a turn for everything else
SHED_BATCH: Final = 512  # calls refused at once: fewer turns at the interpreter, which the loop has
IO_THREADS: Final = 1  # for sockets: a worker is meant for one core, where two wake each other
LINGER_SECONDS: Final = 0.3  # writing an answer takes the front less than 1 ms; starved, some more

_Event = tuple[Any, ...]
_UNKNOWN: Final = Origin("")
_NOWHERE: Final[AbstractContextManager[None]] = nullcontext()


class NativeServer:
    """Serves unary methods, by their paths, on one address; the rest on a socket behind it."""

    def __init__(
        self,
        address: str,
        methods: Mapping[str, UnaryMethod],
        *,
        reuse_port: bool,
        shed: ShedCounter | None = None,
        streams: Mapping[str, StreamMethod] = MappingProxyType({}),
        stream_limits: Mapping[str, OpenCalls] = MappingProxyType({}),
        in_flight: AbstractContextManager[None] = _NOWHERE,
        origins: Origins | None = None,
    ) -> None:
        """Bind; OSError if the address is taken. `shed` counts the calls that are turned away.

        Each of the `streams`, by their paths, is within `in_flight` while it is open. With
        `origins`, calls come through the TLS endpoint; those of unknown origin are refused.
        """
        self._origins = origins
        self._front = NativeGrpcFront(
            address,
            [],
            io_threads=IO_THREADS,
            call_details=True,
            delay_stream_headers=True,
            keepalive_time_ms=limits.KEEPALIVE_MS,
            keepalive_timeout_ms=limits.KEEPALIVE_TIMEOUT_MS,
            max_concurrent_streams=limits.CONNECTION_CALLS_MAX,
            max_metadata_size=limits.METADATA_MAX,
            reuse_port=reuse_port,
        )
        numbers = self._front.add_methods([(path, False) for path in methods])
        self._methods = dict(zip(numbers, methods.values(), strict=True))
        streamed = self._front.add_methods([(path, True) for path in streams])
        self._followed = dict(zip(streamed, streams.values(), strict=True))
        self._stream_limits = dict(zip(streamed, map(stream_limits.get, streams), strict=True))
        self._streams = NativeStreams(self._front, self._fail, in_flight)
        self._shortcuts = [
            method.shortcut for method in methods.values() if method.shortcut is not None
        ]
        self._urgent = {number for number, method in self._methods.items() if method.urgent}
        self._shed_counter = shed
        self._batches: deque[tuple[float, list[_Event]]] = deque()
        self._given = self._taken = 0  # each is counted in one thread only
        self._waiting: dict[int, asyncio.Task[None]] = {}
        self._deferred = 0  # calls that no task of their own answers
        self._ends: dict[int, float] = {}  # of those without a deadline, the earliest first
        self._late: set[int] = set()
        self._settling: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._taking = self._draining = False

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
        if waiting := (*self._waiting.values(), *self._settling):
            _done, late = await asyncio.wait(waiting, timeout=grace)
            for task in late:
                task.cancel()
        self._streams.cancel()
        await asyncio.sleep(LINGER_SECONDS)
        await asyncio.to_thread(self._front.close)

    def _receive(self, loop: asyncio.AbstractEventLoop) -> None:
        size = BATCH
        while (events := self._front.recv_batch_details(size)) is not None:
            try:
                size = SHED_BATCH if self._hand_over(loop, events) else BATCH
                del events  # not held while the next are waited for: messages may be large
            except RuntimeError:  # the loop has ended before the front was closed
                self._front.close()
                return

    def _hand_over(self, loop: asyncio.AbstractEventLoop, events: list[_Event]) -> bool:
        """Give a batch to the loop; if it is behind, which it returns, refuse the calls.

        What is urgent does not stand in line. The line is the front's own, so that the loop has a
        turn for everything else in between.
        """
        behind = False
        if self._given > self._taken:
            urgent = [
                event for event in events if event[0] == EVENT_CALL and event[2] in self._urgent
            ]
            if urgent:
                events = [event for event in events if event not in urgent]
                loop.call_soon_threadsafe(self._take_urgent, urgent)
            behind = self._is_behind()
            if behind:
                events = self._shed(loop, events)
        self._given += len(events)
        self._batches.append((time.monotonic(), events))
        if not self._taking:
            self._taking = True
            loop.call_soon_threadsafe(self._take_next)
        return behind

    def _is_behind(self) -> bool:
        waiting = self._given - self._taken
        if waiting < BATCH:
            return False
        bearable = WAIT_SECONDS if waiting >= WAITING_MIN else STALL_SECONDS
        try:
            return time.monotonic() - self._batches[0][0] > bearable
        except IndexError:  # the loop has just taken the last
            return False

    def _shed(self, loop: asyncio.AbstractEventLoop, events: list[_Event]) -> list[_Event]:
        """Refuse the calls of a batch; return what is left of it."""
        refusal = busy()
        code, message, trailing = refusal.code, refusal.message, refusal.trailing_metadata
        others = []
        for event in events:
            if event[0] == EVENT_CALL:
                self._front.fail(event[1], code, message, trailing)
            else:
                others.append(event)
        if self._shed_counter is not None:
            shed = len(events) - len(others)
            loop.call_soon_threadsafe(self._shed_counter.refused, ShedReason.WAITING, shed)
        return others

    def _take_next(self) -> None:
        """Take the next batch, and have the loop come back if there are more."""
        if self._batches:
            came, events = self._batches.popleft()
            left = self._take(events)
            self._taken += len(events) - len(left)
            if left:
                self._batches.appendleft((came, left))
        self._taking = bool(self._batches)
        if self._batches:  # looked at again: one may have come after `_taking` said that none had
            self._taking = True
            asyncio.get_running_loop().call_soon(self._take_next)

    def _take_urgent(self, events: list[_Event]) -> None:
        if left := self._take(events):
            asyncio.get_running_loop().call_soon(self._take_urgent, left)

    def _take(self, events: list[_Event]) -> list[_Event]:
        """Take calls for the time of one turn; return those that are left."""
        for shortcut in self._shortcuts:
            shortcut.begin_turn()
        left = self._take_turn(events)
        for shortcut in self._shortcuts:
            if settling := shortcut.end_turn(self._settle):
                task = asyncio.get_running_loop().create_task(settling)
                self._settling.add(task)
                task.add_done_callback(self._settling.discard)
        return left

    def _take_turn(self, events: list[_Event]) -> list[_Event]:
        end = time.monotonic() + TURN_SECONDS
        for place, (kind, call_id, number, body, _, details) in enumerate(events):
            if place and time.monotonic() > end:
                return events[place:]
            if kind == EVENT_CANCEL:  # the client has gone, or its deadline has passed
                if task := self._waiting.get(call_id) or self._streams.find(call_id):
                    # Not at once: a task that has not run yet would never run, and never end.
                    asyncio.get_running_loop().call_soon(task.cancel)
                continue
            metadata, peer, left = details
            callers: tuple[Certificate, ...] = ()
            if self._origins is not None:
                peer, callers = self._origin_of(peer, metadata)
                if body.startswith(GZIP):  # the TLS endpoint has cleared the flag
                    body = inflated(body, limits.MESSAGE_MAX)
            if self._draining or not peer:
                self._fail(call_id, shutting_down())
            elif len(body) > limits.MESSAGE_MAX:
                self._fail(call_id, message_too_large())
            elif number in self._followed:
                self._follow(call_id, number, body, Call(metadata, peer, callers))
            elif len(self._waiting) + self._deferred >= limits.CALLS_MAX:
                self._fail(call_id, busy())
            else:
                call, method = Call(metadata, peer, callers), self._methods[number]
                shortcut = method.shortcut
                answer = shortcut(body, call, call_id) if shortcut is not None else None
                if answer is DEFERRED:
                    self._deferred += 1
                elif answer is not None:
                    self._front.respond(call_id, answer)
                else:
                    self._begin(call_id, method.answer(body, call), left)
        return []

    def _settle(self, call_id: int, answer: bytes | RpcError) -> None:
        self._deferred -= 1
        if isinstance(answer, RpcError):
            self._fail(call_id, answer)
        else:
            self._front.respond(call_id, answer)

    def _origin_of(self, name: str, metadata: Metadata) -> Origin:
        """Return the origin of a call over a connection of this name; without peer if unknown."""
        assert self._origins is not None  # noqa: S101 - the caller has looked
        return self._origins.known.get(name) or self._origins.learn(name, metadata) or _UNKNOWN

    def _follow(self, call_id: int, number: int, body: bytes, call: Call) -> None:
        """Begin a stream, if its limit has room for it."""
        limit, peer = self._stream_limits[number], network_of(call.peer)
        if limit is not None and not limit.enter(peer):
            self._fail(call_id, busy())
            return
        ended = None if limit is None else partial(limit.leave, peer)
        self._streams.begin(call_id, self._followed[number].open(body, call), ended)

    def _begin(self, call_id: int, answer: Coroutine[Any, Any, bytes], left: float | None) -> None:
        try:
            waited = answer.send(None)
        except StopIteration as done:
            self._front.respond(call_id, done.value)
        except Exception as failure:  # noqa: BLE001 - a fault in one call ends no other
            self._fail(call_id, failure)
        else:
            loop = asyncio.get_running_loop()
            self._waiting[call_id] = loop.create_task(
                self._go_on(call_id, _ResumedCoroutine(answer, waited))
            )
            if left is None:
                end = self._ends[call_id] = loop.time() + limits.UNARY_SECONDS
                self._timer = self._timer or loop.call_at(end, self._end_late)

    async def _go_on(self, call_id: int, answer: _ResumedCoroutine) -> None:
        try:
            self._front.respond(call_id, await answer)
        except asyncio.CancelledError:
            self._fail(call_id, timed_out() if call_id in self._late else shutting_down())
        except Exception as failure:  # noqa: BLE001 - as above
            self._fail(call_id, failure)
        finally:
            del self._waiting[call_id]
            self._ends.pop(call_id, None)
            self._late.discard(call_id)

    def _end_late(self) -> None:
        """End the calls whose time is up: one timer for all, since most end long before."""
        loop, self._timer = asyncio.get_running_loop(), None
        for call_id, end in list(self._ends.items()):
            if end > loop.time():
                self._timer = loop.call_at(end, self._end_late)
                return
            del self._ends[call_id]
            self._late.add(call_id)
            self._waiting[call_id].cancel()

    def _fail(self, call_id: int, failure: Exception) -> None:
        refusal = failure if isinstance(failure, RpcError) else internal_error(failure)
        trailing = refusal.trailing_metadata
        self._front.fail(call_id, refusal.code, refusal.message, trailing_metadata=trailing)


class _ResumedCoroutine:
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
