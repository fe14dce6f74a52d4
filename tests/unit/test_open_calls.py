"""Open calls and pending messages: totals, shares per peer, and eviction."""

from __future__ import annotations

import asyncio

import pytest

from keyauthority_server.overload import OpenCalls, PendingMessages
from keyauthority_server.overload.errors import busy, overloaded

late = overloaded("late")


def test_peer_is_bounded_by_its_share_and_all_by_the_total() -> None:
    """An ended call frees a slot for any peer."""
    calls = OpenCalls(total=3, per_peer=2)
    assert [True, True, False] == [calls.enter("a") for _ in range(3)]
    assert [True, False] == [calls.enter("b"), calls.enter("c")]
    calls.leave("a")
    assert [True, 3] == [calls.enter("c"), calls.open]
    for peer in "abc":
        calls.leave(peer)
    assert 0 == calls.open


class Waiting:
    """Calls that wait for a message."""

    def __init__(self, total: int, per_peer: int, seconds: float = 60) -> None:
        self.pending = PendingMessages(total, per_peer, seconds, busy, late)
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def open(self, name: str) -> None:
        """Open a call of the peer that the name begins with."""
        self.tasks[name] = asyncio.create_task(self._wait(name[0]))
        await asyncio.sleep(0)

    async def _wait(self, peer: str) -> None:
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        one = self.pending.enter(peer, ended.set_exception)
        try:
            await ended
        finally:
            self.pending.leave(one)

    async def ended(self) -> dict[str, str]:
        """The calls that were ended, and why."""
        await asyncio.sleep(0)
        done = {name: task for name, task in self.tasks.items() if task.done()}
        return {name: str(task.exception()) for name, task in done.items()}


async def test_oldest_call_of_a_flooding_peer_is_evicted() -> None:
    """A flood ends its own calls; earlier calls of other peers continue."""
    waiting = Waiting(total=4, per_peer=2)
    for name in ("honest", "a1", "a2", "a3", "a4"):
        await waiting.open(name)
    assert {"a1", "a2"} == set(await waiting.ended())
    assert 3 == len(waiting.pending)


async def test_oldest_call_of_all_is_evicted_at_the_total() -> None:
    """Many peers share one total."""
    waiting = Waiting(total=2, per_peer=1)
    for name in ("a", "b", "c"):
        await waiting.open(name)
    assert {"a": str(busy())} == await waiting.ended()
    assert 2 == len(waiting.pending)


async def test_call_without_its_message_times_out() -> None:
    """One timer ends these calls in order."""
    waiting = Waiting(total=4, per_peer=4, seconds=0.02)
    for name in ("a", "b"):
        await waiting.open(name)
    done, _ = await asyncio.wait(waiting.tasks.values(), timeout=5)
    assert 2 == len(done)
    assert {"a": "late", "b": "late"} == await waiting.ended()
    assert 0 == len(waiting.pending)


async def test_cancelled_call_frees_its_slot() -> None:
    """A cancellation by the client is not a rejection."""
    waiting = Waiting(total=4, per_peer=4)
    await waiting.open("a")
    waiting.tasks["a"].cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting.tasks["a"]
    assert 0 == len(waiting.pending)
