"""The coalescer: requests of an event loop to a thread, answered or refused in time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from keyauthority_server.store.batching.coalescer import CallBatch, Coalescer, pending, resolve
from keyauthority_server.store.interface import StoreUnavailable
from tests.unit.waiting import settle


class Thread:
    """Takes batches, and answers them on order."""

    def __init__(self) -> None:
        self.taken: list[CallBatch[str, str]] = []
        self.closed = False

    def submit(self, turn: CallBatch[str, str]) -> None:
        """Take one."""
        if self.closed:
            raise StoreUnavailable("closed")
        self.taken.append(turn)

    def answer(self) -> None:
        """Answer all who wait with their own question."""
        callers = pending(self.taken)
        resolve(callers, [one.question for one in callers])


def asked(thread: Thread, questions: str, seconds: float = 60) -> tuple[Any, list[Any]]:
    """Ask some questions in one turn of the loop."""
    turns: Coalescer[str, str] = Coalescer(thread.submit, seconds=seconds, late="late")
    return turns, [asyncio.create_task(turns.submit(one, 2)) for one in questions]


async def test_requests_of_one_turn_are_submitted_together() -> None:
    """Those of the next turn form their own group."""
    thread = Thread()
    turns, first = asked(thread, "abc")
    await settle()
    second = asyncio.create_task(turns.submit("d", 1))
    await settle()
    assert [("abc", 6), ("d", 1)] == [
        ("".join(one.question for one in turn.callers), turn.size) for turn in thread.taken
    ]
    thread.answer()
    assert ["a", "b", "c", "d"] == await asyncio.gather(*first, second)


async def test_waiting_requests_time_out_individually() -> None:
    """An answered one keeps its answer; the thread sees no request that gave up."""
    thread = Thread()
    _, (first, second, third) = asked(thread, "abc", seconds=0.5)
    await settle()
    (turn,) = thread.taken
    resolve(turn.callers[:1], ["a"])
    assert "a" == await first
    second.cancel()
    with pytest.raises(StoreUnavailable, match="late"):
        await third
    assert [] == pending(thread.taken)


@pytest.mark.parametrize("gone", [False, True], ids=["answered", "gone"])
async def test_abandoned_turn_leaves_nothing(gone: bool) -> None:
    """Not even its timer, of which there would be thousands."""
    thread = Thread()
    _, tasks = asked(thread, "ab")
    await settle()
    timer = thread.taken[0]._timer
    assert timer is not None
    assert not timer.cancelled()
    if gone:
        for task in tasks:
            task.cancel()
    else:
        thread.answer()
    await asyncio.wait(tasks)
    assert timer.cancelled()


async def test_closed_thread_refuses_a_whole_turn() -> None:
    """At once, with its own reason."""
    thread = Thread()
    thread.closed = True
    _, tasks = asked(thread, "ab")
    for task in tasks:
        with pytest.raises(StoreUnavailable, match="closed"):
            await task
