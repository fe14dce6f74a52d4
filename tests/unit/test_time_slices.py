"""Time slices: a call over many items yields to other tasks."""

from __future__ import annotations

import asyncio

import pytest

from keyauthority_server.services import time_slices
from keyauthority_server.services.time_slices import TimeSlices


@pytest.fixture(autouse=True)
def _every_item_ends_a_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_slices, "SLICE_SECONDS", 0.0)


async def large_call(shared: TimeSlices, name: str, items: int, done: list[str]) -> None:
    """Work on items, and note each."""
    with shared.begin() as slices:
        for _ in range(items):
            done.append(name)
            await slices.pause()


async def test_other_tasks_run_between_two_slices() -> None:
    """The event loop continues for any number of items."""
    done: list[str] = []
    call = asyncio.create_task(large_call(TimeSlices(), "item", 10, done))
    while not call.done():
        await asyncio.sleep(0)
        done.append("turn")
    assert "item item" not in " ".join(done)
    assert 10 == done.count("item")


async def test_large_calls_share_one_turn() -> None:
    """After its first slice only one of them works per turn of the loop."""
    shared, done = TimeSlices(), list[str]()
    calls = [
        asyncio.create_task(large_call(shared, f"call {number}", 20, done)) for number in range(5)
    ]
    await asyncio.sleep(0)
    assert 5 == len(done)
    worked = []
    while not all(call.done() for call in calls):
        before = len(done)
        await asyncio.sleep(0)
        worked.append(len(done) - before)
    assert 100 == len(done)
    assert max(worked) <= 1
    firsts = [done.index(f"call {number}", 60) for number in range(5)]
    assert max(firsts) < 70  # they take turns: none waits for the end of another


async def test_ended_call_releases_the_turn() -> None:
    """Cancelled or failed during its turn, it does not keep it."""
    shared, done = TimeSlices(), list[str]()
    first = asyncio.create_task(large_call(shared, "first", 1_000, done))
    second = asyncio.create_task(large_call(shared, "second", 50, done))
    for _ in range(50):
        await asyncio.sleep(0)
    assert {"first", "second"} == set(done)
    first.cancel()
    await second
    assert 50 == done.count("second")
    assert first.cancelled()
