"""Pages of changes from the end of the log, and the wake-up of their readers."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from keyauthority.clock import monotonic
from keyauthority.model import ChangeType
from keyauthority_server.store.interface import Store
from tests.store.engines import Engine
from tests.store.factories import create, create_project, key, put

PATIENCE = 20.0  # seconds; of a test that hangs


async def test_changes_after_a_revision_are_read_in_pages(store: Store) -> None:
    """Pages come in order, without a gap, with the head, up to the last change."""
    project = await create_project(store)
    keys = [await create(store, key(project.project_id)) for _ in range(5)]
    first = await store.read_changes(0, 4)
    assert ([1, 2, 3, 4], 6) == ([one.revision for one in first.changes], first.head)
    rest = await store.read_changes(4, 4)
    assert ([5, 6], 6) == ([one.revision for one in rest.changes], rest.head)
    assert keys[-1] == rest.changes[-1].keys[0]
    assert ChangeType.KEY_CREATED is rest.changes[-1].type
    end = await store.read_changes(6, 4)
    assert ([], 6) == (list(end.changes), end.head)
    whole = await store.read_changes(0, 1000)
    assert [*first.changes, *rest.changes] == list(whole.changes)


async def test_empty_log_has_head_zero(store: Store) -> None:
    """A log without changes is at revision 0."""
    tail = await store.read_changes(0, 4)
    assert ([], 0) == (list(tail.changes), tail.head)


async def test_page_as_of_covers_every_earlier_commit(store: Store) -> None:
    """A change committed before `as_of` is in the page, even if it is not acknowledged yet."""
    await create_project(store)
    committed = monotonic()
    tail = await store.read_changes(0, 4)
    assert committed <= tail.as_of <= monotonic()
    assert 1 == tail.head


async def test_commit_wakes_a_follower(engine: Engine, place: str, store: Store) -> None:
    """A commit of any process ends the wait, also one made since the follower's last read."""
    other = engine.open(place)
    try:
        for writer in (store, other):
            head = (await store.read_changes(0, 4)).head
            waiting = asyncio.create_task(store.wait_for_changes(PATIENCE))
            await asyncio.sleep(0)
            await create_project(writer)
            await asyncio.wait_for(waiting, PATIENCE / 2)
            assert head + 1 == (await store.read_changes(head, 4)).head
            await create_project(writer)
            await asyncio.wait_for(store.wait_for_changes(PATIENCE), PATIENCE / 2)
    finally:
        await other.close()


async def test_wait_of_a_follower_times_out(store: Store) -> None:
    """Without a commit the wait lasts as long as requested."""
    await store.read_changes(0, 4)
    await asyncio.wait_for(store.wait_for_changes(0.01), PATIENCE)


async def test_repeated_change_of_a_record_yields_two_changes(store: Store) -> None:
    """Records are shown as they were after each change, not as they are now."""
    project = await create_project(store)
    for name in ("first", "second"):
        await put(store, ChangeType.PROJECT_UPDATED, replace(project, display_name=name))
    told = [one.project for one in (await store.read_changes(1, 4)).changes]
    assert ["first", "second"] == [one.display_name for one in told if one]
