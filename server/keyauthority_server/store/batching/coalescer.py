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

from keyauthority_server.store.interface import StoreUnavailable

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

    def __init__(self) -> None:
        self.callers: list[Asking[Q, A]] = []
        self.size = 0
        self._waiting = 0
        self._timer: asyncio.TimerHandle | None = None

    def join(self, asking: Asking[Q, A]) -> None:
        """Add a question, before it is handed over."""
        self.callers.append(asking)
        self.size += asking.size
        self._waiting += 1

    def leave(self) -> None:
        """Let go of one who has his answer, or gives it up."""
        self._waiting -= 1
        if not self._waiting and self._timer is not None:
            self._timer.cancel()

    def end_in(self, seconds: float, late: str) -> None:
        """Refuse those who still wait then."""
        loop, error = asyncio.get_running_loop(), StoreUnavailable(late)
        self._timer = loop.call_later(seconds, refuse, self.callers, error)


T = TypeVar("T", contravariant=True)


class Thread(Protocol[T]):
    """What takes turns."""

    def submit(self, unit: T, /) -> None:
        """Take one; raises StoreUnavailable."""
        ...


class Coalescer(Generic[Q, A]):
    """The event loop's end. Use it from one loop."""

    def __init__(self, thread: Thread[Turn[Q, A]], *, seconds: float, late: str) -> None:
        """Wait so long for each answer; `late` says what is refused then."""
        self._thread = thread
        self._seconds = seconds
        self._late = late
        self._turn: Turn[Q, A] | None = None

    async def ask(self, question: Q, size: int) -> A:
        """Return the answer. Raises StoreUnavailable if it does not come in time.

        A question that was given up before the thread has taken it is never answered.
        """
        loop, turn = asyncio.get_running_loop(), self._turn
        if turn is None:
            turn = self._turn = Turn()
            loop.call_soon(self.hand_in)
        asking: Asking[Q, A] = Asking(question, size, loop.create_future())
        turn.join(asking)
        try:
            return await asking.outcome
        finally:
            turn.leave()

    def hand_in(self) -> None:
        """Hand over what was asked in this turn so far."""
        turn, self._turn = self._turn, None
        if turn is None:
            return
        turn.end_in(self._seconds, self._late)
        try:
            self._thread.submit(turn)
        except StoreUnavailable as error:
            refuse(turn.callers, error)


def waiting(turns: Sequence[Turn[Q, A]]) -> list[Asking[Q, A]]:
    """Return those who still wait for an answer."""
    return [one for turn in turns for one in turn.callers if not one.outcome.done()]


def tell(callers: Sequence[Asking[Q, A]], answers: Sequence[A | Exception]) -> None:
    """Answer each of them from the thread, or raise the exception that stands for its answer."""
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


def _answer(callers: Sequence[Asking[Q, A]], answers: Sequence[A | Exception]) -> None:
    for one, answer in zip(callers, answers, strict=True):
        if one.outcome.done():
            continue
        if isinstance(answer, Exception):
            one.outcome.set_exception(answer)
        else:
            one.outcome.set_result(answer)
