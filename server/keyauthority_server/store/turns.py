"""Questions of an event loop to a thread, and its answers.

What is asked in one turn of the loop is handed over at its end, all at once, and the loop is told
once for a whole group: a thread that is woken in between would fight with it for the interpreter.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import structlog

from keyauthority_server.store.base import StoreUnavailable

_log = structlog.get_logger(__name__)

Q = TypeVar("Q")
A = TypeVar("A")


class Asking(Generic[Q, A]):
    """A question on its way to its answer."""

    def __init__(self, question: Q, size: int, outcome: asyncio.Future[A]) -> None:
        self.question = question
        self.size = size
        self.outcome = outcome


class Turn(Generic[Q, A]):
    """What was asked in one turn of the event loop."""

    urgent: ClassVar[bool] = False  # to a thread that knows what is

    def __init__(self, callers: Sequence[Asking[Q, A]]) -> None:
        self.callers = callers
        self.size = sum(one.size for one in callers)


T = TypeVar("T", contravariant=True)


class Thread(Protocol[T]):
    """What takes turns."""

    def submit(self, unit: T, /) -> None:
        """Take one; raises StoreUnavailable."""
        ...


class Turns(Generic[Q, A]):
    """The event loop's end. Use it from one loop."""

    def __init__(self, thread: Thread[Turn[Q, A]]) -> None:
        self._thread = thread
        self._turn: list[Asking[Q, A]] = []

    async def ask(self, question: Q, *, size: int, seconds: float, late: str) -> A:
        """Return the answer. Raises StoreUnavailable(`late`) if it does not come in time.

        A question that was given up before the thread has taken it is never answered.
        """
        loop = asyncio.get_running_loop()
        asking: Asking[Q, A] = Asking(question, size, loop.create_future())
        if not self._turn:
            loop.call_soon(self.hand_in)
        self._turn.append(asking)
        timer = loop.call_later(seconds, refuse, (asking,), StoreUnavailable(late))
        try:
            return await asking.outcome
        finally:
            timer.cancel()

    def hand_in(self) -> None:
        """Hand over what was asked in this turn so far."""
        turn, self._turn = self._turn, []
        if not turn:
            return
        try:
            self._thread.submit(Turn(turn))
        except StoreUnavailable as error:
            refuse(turn, error)


def waiting(turns: Sequence[Turn[Q, A]]) -> list[Asking[Q, A]]:
    """Return those who still wait for an answer."""
    return [one for turn in turns for one in turn.callers if not one.outcome.done()]


def tell(callers: Sequence[Asking[Q, A]], answers: Sequence[A]) -> None:
    """Answer them, from the thread."""
    _in_loop(callers, partial(_answer, callers, answers))


def tell_failure(callers: Sequence[Asking[Q, A]], error: Exception) -> None:
    """Tell all of them that it failed, from the thread."""
    _in_loop(callers, partial(refuse, callers, error))


def refuse(callers: Sequence[Asking[Any, Any]], error: Exception) -> None:
    """Tell those who still wait that it failed, in the loop."""
    for one in callers:
        if not one.outcome.done():
            one.outcome.set_exception(error)


def _in_loop(callers: Sequence[Asking[Q, A]], answer: Callable[[], None]) -> None:
    if not callers:
        return
    try:
        callers[0].outcome.get_loop().call_soon_threadsafe(answer)
    except RuntimeError:  # the loop is closed: nobody waits for an answer any more
        _log.warning("unanswered", callers=len(callers))


def _answer(callers: Sequence[Asking[Q, A]], answers: Sequence[A]) -> None:
    for one, answer in zip(callers, answers, strict=True):
        if not one.outcome.done():
            one.outcome.set_result(answer)
