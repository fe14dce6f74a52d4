"""The byte budget of all watchers."""

from __future__ import annotations

import asyncio

import pytest

from keyauthority_server.change_feed import ByteBudget
from tests.unit.waiting import settle


async def test_watchers_beyond_the_budget_wait_in_order() -> None:
    """A small one after a large one waits too; one that gives up frees its place."""
    budget, held, go = ByteBudget(10), [], asyncio.Event()

    async def hold(size: int) -> None:
        async with budget.hold(size):
            held.append(size)
            await go.wait()

    first = asyncio.create_task(hold(6))
    large, small = asyncio.create_task(hold(9)), asyncio.create_task(hold(1))
    await settle()
    assert ([6], 6) == (held, budget.held)
    large.cancel()
    await settle()
    with pytest.raises(asyncio.CancelledError):
        await large
    go.set()
    await asyncio.gather(first, small)
    assert ([6, 1], 0) == (held, budget.held)


async def test_message_larger_than_the_budget_is_held_alone() -> None:
    """No watcher waits forever."""
    budget = ByteBudget(10)
    async with budget.hold(50):
        assert 10 == budget.held
    assert 0 == budget.held
