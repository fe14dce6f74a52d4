"""A watch: from the log to the replay buffer to live changes, and its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import pytest

from keyauthority.clock import SystemClock
from keyauthority.errors import Unavailable
from keyauthority.model import Revision
from keyauthority.requests import WatchQuery
from keyauthority_server.change_feed import Feed, ReplayBuffer, following
from keyauthority_server.services import watch
from keyauthority_server.services.context import ServiceContext
from keyauthority_server.services.principal import Principal
from keyauthority_server.services.watch import Update, Watch
from keyauthority_server.store.interface import Store
from keyauthority_server.store.sqlite.store import migrate, open_store
from tests.store.factories import create_project, operator, sign

PATIENCE = 20.0  # seconds; of a test that hangs
KEPT = 4


class World(NamedTuple):
    """A store, and those who watch it."""

    store: Store
    recent: ReplayBuffer
    watching: Watch

    def watch(self, **asked: Any) -> AsyncGenerator[Update]:
        """Open a watch of one who may see everything."""
        caller = Principal(operator(), "127.0.0.1")

        async def admit() -> Principal:
            return caller

        return self.watching.watch(caller, admit, WatchQuery(**asked))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A store in a folder of its own, with a feed that keeps few changes."""
    migrate(tmp_path / "keys.db")
    store = open_store(tmp_path / "keys.db", sign)
    context = SimpleNamespace(store=store, log_id=store.log_id, clock=SystemClock())
    context.require_visible = partial(ServiceContext.require_visible, cast("Any", context))
    async with following(store) as feed, asyncio.timeout(PATIENCE):
        recent = ReplayBuffer(feed, changes_max=KEPT)
        yield World(store, recent, Watch(cast("ServiceContext", context), recent))
    await store.close()


async def make(world: World, number: int) -> None:
    """Commit some changes, and see them kept."""
    for _ in range(number):
        await create_project(world.store)
    head = (await world.store.read_changes(0, 1)).head
    while world.recent.watchers and world.recent.position < head:  # noqa: ASYNC110 - of the feed
        await asyncio.sleep(0.005)


@pytest.mark.case(34)
async def test_slow_reader_gets_resync(world: World) -> None:
    """As soon as it reads again; then its stream ends."""
    async with aclosing(world.watch()) as updates:
        assert (await anext(updates)).checkpoint
        await make(world, KEPT + 1)
        assert [True] == [one.resync async for one in updates]


async def test_briefly_paused_reader_misses_nothing(world: World) -> None:
    """It gets all changes in order, in one checkpoint."""
    async with aclosing(world.watch()) as updates:
        await anext(updates)
        await make(world, KEPT)
        update = await anext(updates)
    assert (list(range(1, KEPT + 1)), True) == (
        [one.revision for one in update.changes],
        update.checkpoint,
    )


async def test_old_start_is_read_from_the_log_without_claiming_freshness(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No checkpoint comes before the last change committed meanwhile."""
    monkeypatch.setattr(watch, "PAGE", 100)
    monkeypatch.setattr(watch, "FIRST_PAGE", 100)
    await make(world, 250)
    told: list[int] = []
    async with aclosing(world.watch(from_revision=0)) as updates:
        async for update in updates:
            told += [one.revision for one in update.changes]
            if len(told) == 200:
                await make(world, 1)
            if update.checkpoint:
                break
            assert update.revision == told[-1]
    assert list(range(1, 252)) == told


async def test_log_ahead_of_the_feed_causes_no_resync(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process committed during the read; the feed has not seen it yet."""
    monkeypatch.setattr(watch, "PAGE", 4)
    await make(world, 6)
    catch_up, seen = Feed.catch_up, asyncio.Event()

    async def late(feed: Feed) -> None:
        await seen.wait()
        await catch_up(feed)

    told: list[int] = []
    async with aclosing(world.watch(from_revision=0)) as updates:
        async for update in updates:
            assert not update.resync
            told += [one.revision for one in update.changes]
            if len(told) == 4:
                monkeypatch.setattr(Feed, "catch_up", late)
                await create_project(world.store)
            if update.checkpoint:
                seen.set()
                if len(told) == 7:
                    break
    assert list(range(1, 8)) == told


async def test_too_old_start_gets_resync(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond a number of changes a snapshot is cheaper."""
    monkeypatch.setattr(watch, "REPLAY_MAX", 2)
    await make(world, 3)
    assert [True] == [one.resync async for one in world.watch(from_revision=0)]
    async with aclosing(world.watch(from_revision=1)) as updates:
        assert not (await anext(updates)).resync


async def test_log_that_lost_changes_gives_resync(world: World) -> None:
    """Also if it has grown back to the watcher's position."""
    async with aclosing(world.watch()) as updates:
        await anext(updates)
        world.recent.lost(Revision(0))
        assert [True] == [one.resync async for one in updates]


async def test_closing_watch_delivers_pending_changes_first(world: World) -> None:
    """Then it raises Unavailable, as does every later watch."""
    async with aclosing(world.watch()) as updates:
        await anext(updates)
        await make(world, 1)
        world.watching.end()
        assert [1] == [one.revision for one in (await anext(updates)).changes]
        with pytest.raises(Unavailable):
            await anext(updates)
    with pytest.raises(Unavailable):
        await anext(world.watch())
    assert 0 == world.recent.watchers


async def test_new_watcher_during_the_last_ones_end_gets_changes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last one closes the feed only if no other has joined or is joining."""
    catch_up, here, gone = Feed.catch_up, asyncio.Event(), asyncio.Event()
    first, second = world.watch(), world.watch()
    await anext(first)

    async def slow(feed: Feed) -> None:
        if asyncio.current_task() is opening:
            here.set()
            await gone.wait()
        await catch_up(feed)

    monkeypatch.setattr(Feed, "catch_up", slow)
    opening = asyncio.create_task(anext(second))
    await here.wait()
    await first.aclose()
    gone.set()
    assert (await opening).checkpoint
    await create_project(world.store)
    async with aclosing(second):
        async for update in second:
            if update.changes:
                break
    assert 0 == world.recent.watchers
