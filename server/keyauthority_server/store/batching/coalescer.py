"""Coalesces calls from an event loop to a worker thread.

All calls of one iteration of the loop are submitted together at its end, and the thread resolves a
whole group with one wakeup of the loop: waking either side for each call would make them contend
for the interpreter.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Generic, TypeVar

import structlog

from keyauthority_server.store.interface import StoreUnavailable

_log = structlog.get_logger(__name__)

Q = TypeVar("Q")
A = TypeVar("A")


class PendingCall(Generic[Q, A]):
    """A request, and the future of its response."""

    def __init__(self, question: Q, size: int, outcome: asyncio.Future[A]) -> None:
        self.question = question
        self.size = size
        self.outcome = outcome


class CallBatch(Generic[Q, A]):
    """The calls of one iteration of the event loop."""

    urgent: ClassVar[bool] = False  # for threads that distinguish urgent units

    def __init__(self) -> None:
        self.callers: list[PendingCall[Q, A]] = []
        self.size = 0
        self._waiting = 0
        self._timer: asyncio.TimerHandle | None = None

    def add(self, call: PendingCall[Q, A]) -> None:
        """Add a call, before the batch is submitted."""
        self.callers.append(call)
        self.size += call.size
        self._waiting += 1

    def leave(self) -> None:
        """Count a caller as gone: answered or cancelled."""
        self._waiting -= 1
        if not self._waiting and self._timer is not None:
            self._timer.cancel()

    def expire_after(self, seconds: float, late: str) -> None:
        """Fail the calls that are still pending after this time."""
        loop, error = asyncio.get_running_loop(), StoreUnavailable(late)
        self._timer = loop.call_later(seconds, fail_pending, self.callers, error)


class Coalescer(Generic[Q, A]):
    """The event loop's end. Use it from one loop."""

    def __init__(
        self, submit: Callable[[CallBatch[Q, A]], None], *, seconds: float, late: str
    ) -> None:
        """Wait `seconds` for each answer, then raise StoreUnavailable with the text `late`."""
        self._submit = submit
        self._seconds = seconds
        self._late = late
        self._batch: CallBatch[Q, A] | None = None

    async def submit(self, question: Q, size: int) -> A:
        """Return the answer. Raises StoreUnavailable if it does not arrive in time.

        A call that is cancelled before the thread takes it is never executed.
        """
        loop, batch = asyncio.get_running_loop(), self._batch
        if batch is None:
            batch = self._batch = CallBatch()
            loop.call_soon(self.flush)
        call: PendingCall[Q, A] = PendingCall(question, size, loop.create_future())
        batch.add(call)
        try:
            return await call.outcome
        finally:
            batch.leave()

    def flush(self) -> None:
        """Submit the calls made so far in this iteration of the loop."""
        batch, self._batch = self._batch, None
        if batch is None:
            return
        batch.expire_after(self._seconds, self._late)
        try:
            self._submit(batch)
        except StoreUnavailable as error:
            fail_pending(batch.callers, error)


def pending(batches: Sequence[CallBatch[Q, A]]) -> list[PendingCall[Q, A]]:
    """Return the calls without an outcome."""
    return [call for batch in batches for call in batch.callers if not call.outcome.done()]


def resolve(callers: Sequence[PendingCall[Q, A]], answers: Sequence[A | Exception]) -> None:
    """Resolve each call from the thread, with an answer or an exception to raise."""
    _in_loop(callers, partial(_set_outcomes, callers, answers))


def fail(callers: Sequence[PendingCall[Q, A]], error: Exception) -> None:
    """Fail all pending calls, from the thread."""
    _in_loop(callers, partial(fail_pending, callers, error))


def fail_pending(callers: Sequence[PendingCall[Any, Any]], error: Exception) -> None:
    """Fail all pending calls, in the loop."""
    for call in callers:
        if not call.outcome.done():
            call.outcome.set_exception(error)


def _in_loop(callers: Sequence[PendingCall[Q, A]], callback: Callable[[], None]) -> None:
    if not callers:
        return
    try:
        callers[0].outcome.get_loop().call_soon_threadsafe(callback)
    except RuntimeError:  # the loop is closed: no caller waits for an answer
        _log.warning("unanswered", callers=len(callers))


def _set_outcomes(callers: Sequence[PendingCall[Q, A]], answers: Sequence[A | Exception]) -> None:
    for call, answer in zip(callers, answers, strict=True):
        if call.outcome.done():
            continue
        if isinstance(answer, Exception):
            call.outcome.set_exception(answer)
        else:
            call.outcome.set_result(answer)
