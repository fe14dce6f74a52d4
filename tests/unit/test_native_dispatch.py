"""Dispatch of the native transport, driven by a scripted front."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine
from typing import Any

import pytest
from google.rpc.code_pb2 import DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNAVAILABLE
from pygrpc_native import EVENT_CALL, EVENT_CANCEL

from keyauthority_server.overload.errors import busy
from keyauthority_server.rpc_types import DEFERRED, Call, Deferred, Settle, UnaryMethod
from keyauthority_server.transport import limits, native
from tests.unit.waiting import until

CALL = (EVENT_CALL, 7, 0, b"", None, ((), "unix:", None))
CANCEL = (EVENT_CANCEL, 7, None, None, None, None)


class GivenFront:
    """Hands over one batch, then nothing until it is closed."""

    def __init__(self, batch: list[tuple[Any, ...]]) -> None:
        self._batches = [batch]
        self._closed = threading.Event()
        self.answered: dict[int, bytes] = {}
        self.failed: dict[int, int] = {}
        """Calls, and the codes that they failed with."""

    def __call__(self, *_: object, **__: object) -> GivenFront:
        """Stand in for the front's class too."""
        return self

    def add_methods(self, methods: list[tuple[str, bool]]) -> list[int]:
        """Number the methods."""
        return list(range(len(methods)))

    def set_fallback(self, path: str) -> None:
        """Send nothing there."""

    def start(self) -> None:
        """Be started already."""

    def respond(self, call_id: int, answer: bytes, **__: object) -> bool:
        """Note it, and find that the client has gone."""
        self.answered[call_id] = answer
        return False

    def fail(self, call_id: int, code: int, *_: object, **__: object) -> bool:
        """Note it, and find that the client has gone."""
        self.failed[call_id] = code
        return False

    def recv_batch_details(self, _: int) -> list[tuple[Any, ...]] | None:
        """Give the batch, then wait for the end."""
        if self._batches:
            return self._batches.pop()
        self._closed.wait()
        return None

    def close(self) -> None:
        """Let the receiving thread go."""
        self._closed.set()


async def test_call_cancelled_in_its_own_batch_is_notified_and_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A waiting handler learns of the cancellation, however early it comes."""
    told = asyncio.Event()

    async def answer(_: bytes, __: Call) -> bytes:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            told.set()
            raise
        return b""

    monkeypatch.setattr(native, "NativeGrpcFront", GivenFront([CALL, CANCEL]))
    front = native.NativeServer("unix:", {"/a/B": UnaryMethod(answer)}, reuse_port=False)
    front.start("behind")
    async with asyncio.timeout(5):
        await told.wait()
        await front.drain(0)


async def test_only_calls_without_a_deadline_get_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One timer serves them all, later ones included."""
    begun: list[float] = []

    async def answer(_: bytes, __: Call) -> bytes:
        begun.append(time.monotonic())
        await asyncio.get_running_loop().create_future()
        return b""

    async def over_at_once(_: bytes, __: Call) -> bytes:
        await asyncio.sleep(0)
        return b""

    bare, bounded = ((), "unix:", None), ((), "unix:", 60.0)
    batch = [
        (EVENT_CALL, 1, 1, b"", None, bare),
        (EVENT_CALL, 2, 0, b"", None, bare),
        (EVENT_CALL, 3, 0, b"", None, bounded),
    ]
    given = GivenFront(batch)
    monkeypatch.setattr(native, "NativeGrpcFront", given)
    monkeypatch.setattr(limits, "UNARY_SECONDS", 0.2)
    front = native.NativeServer(
        "unix:",
        {"/a/B": UnaryMethod(answer), "/a/C": UnaryMethod(over_at_once)},
        reuse_port=False,
    )
    front.start("behind")
    await until(lambda: len(begun) == 2)
    await asyncio.sleep(limits.UNARY_SECONDS / 2)
    late = (EVENT_CALL, 4, 0, b"", None, bare)
    front._take([late])
    await until(lambda: given.failed == {2: DEADLINE_EXCEEDED, 4: DEADLINE_EXCEEDED})
    assert time.monotonic() - begun[-1] >= limits.UNARY_SECONDS - 0.01
    await front.drain(0)
    assert UNAVAILABLE == given.failed[3]


class Deferring:
    """A shortcut that defers every call until `settled` is set."""

    def __init__(self) -> None:
        self.settled = asyncio.Event()
        self._tickets: list[int] = []

    def begin_turn(self) -> None:
        """Begin without calls."""
        assert not self._tickets

    def __call__(self, _: bytes, __: Call, ticket: int | None = None) -> Deferred:
        """Defer the call."""
        assert ticket is not None
        self._tickets.append(ticket)
        return DEFERRED

    def end_turn(self, settle: Settle) -> Coroutine[Any, Any, None] | None:
        """Wait, then answer even tickets and refuse odd ones."""
        tickets, self._tickets = self._tickets, []

        async def wait() -> None:
            await self.settled.wait()
            for ticket in tickets:
                settle(ticket, b"answer" if ticket % 2 == 0 else busy())

        return wait() if tickets else None


async def test_deferred_calls_are_bounded_and_answered_while_draining(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They count as calls at once, and a drain waits until their turn is settled."""
    calls = [(EVENT_CALL, number, 0, b"", None, ((), "unix:", None)) for number in range(4)]
    given, shortcut = GivenFront(calls), Deferring()
    monkeypatch.setattr(native, "NativeGrpcFront", given)

    async def answer(_: bytes, __: Call) -> bytes:
        raise AssertionError("the shortcut takes each call")

    monkeypatch.setattr(limits, "CALLS_MAX", 3)
    methods = {"/a/B": UnaryMethod(answer, shortcut)}
    front = native.NativeServer("unix:", methods, reuse_port=False)
    front.start("behind")
    await until(lambda: given.failed == {3: RESOURCE_EXHAUSTED})
    draining = asyncio.create_task(front.drain(5))
    await asyncio.sleep(0)
    assert {} == given.answered
    shortcut.settled.set()
    await draining
    assert {0: b"answer", 2: b"answer"} == given.answered
    assert {1: RESOURCE_EXHAUSTED, 3: RESOURCE_EXHAUSTED} == given.failed
