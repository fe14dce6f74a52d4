"""Snapshot reads: one consistent state, never older than an acknowledged change of any store."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import replace
from typing import Any

import pytest

from keyauthority.model import ApiTargetRestriction, ChangeType, Restrictions, Revision
from keyauthority_server.store.interface import Store
from keyauthority_server.store.sql.row_codec import time_from
from keyauthority_server.store.types import Snapshot, Snapshots, StoredKey
from tests.store.engines import Engine
from tests.store.factories import NOON, create, create_project, held, key, operator, put

ABSENT = "KAZZZZZZZZZZZZZZZZZZ"


async def test_snapshot_holds_key_project_operator_and_head_of_one_state(store: Store) -> None:
    """A snapshot names the head and holds each record, or None if it is absent."""
    owner = await create_project(store)
    mine, root = await create(store, key(owner.project_id)), await create(store, operator())
    for _ in range(2):  # decoded, then remembered
        assert Snapshot(Revision(3), held(mine), owner, held(root)) == await store.read(
            mine.access_key, root.access_key
        )
    assert Snapshot(Revision(3), None, None, held(root)) == await store.read(
        ABSENT, root.access_key
    )
    assert Snapshot(Revision(3), held(mine), owner, None) == await store.read(
        mine.access_key, ABSENT
    )
    assert Snapshot(Revision(3), held(root), None, None) == await store.read(root.access_key, None)
    assert Snapshot(Revision(3), None, None, None) == await store.read(None, None)


async def test_change_of_one_store_is_in_the_next_snapshot_of_another(
    store: Store, engine: Engine, place: str
) -> None:
    """Another store's next snapshot shows an acknowledged change, cached or not."""
    other = engine.open(place)
    owner = await create_project(store)
    mine, root = await create(store, key(owner.project_id)), await create(store, operator())
    await other.read(mine.access_key, root.access_key)
    for change in range(20):
        mine = replace(mine, disabled=not mine.disabled, purpose=str(change))
        mine = (await put(store, ChangeType.KEY_UPDATED, mine)).keys[0]
        assert held(mine) == (await other.read(mine.access_key, root.access_key)).stored
        owner = replace(owner, suspended=not owner.suspended)
        owner = (await put(other, ChangeType.PROJECT_UPDATED, owner)).project or owner
        assert owner == (await store.read(mine.access_key, root.access_key)).project
        root = (await put(store, ChangeType.KEY_UPDATED, replace(root, purpose=str(change)))).keys[
            0
        ]
        assert held(root) == (await other.read_many([], root.access_key)).operator
        new = await create(store, key(owner.project_id))  # not kept yet, beside one that is
        pairs = [(held(mine), owner), (held(new), owner), (None, None)]
        asked = [mine.access_key, new.access_key, ABSENT]
        assert Snapshots(Revision(new.revision), pairs, None) == await other.read_many(asked, None)
    await other.close()


async def test_bookkeeping_columns_are_read_fresh_each_time(
    store: Store, engine: Engine, place: str
) -> None:
    """Digest, pepper version and last use have no revision; a cached key shows them fresh."""
    owner = await create_project(store)
    mine = await create(store, key(owner.project_id))
    await store.read(mine.access_key, mine.access_key)
    engine.rows(place, "UPDATE key SET digest = x'01', pepper_version = 2")
    for again in (1, 2):
        engine.rows(place, "UPDATE key SET last_used_time = coalesce(last_used_time, 0) + 1")
        used = replace(mine, last_used_time=time_from(again))
        assert (
            StoredKey(used, b"\x01", 2, mine.access_key)
            == (await store.read(mine.access_key, None)).stored
        )
        many = await store.read_many([mine.access_key], None)
        assert StoredKey(used, b"\x01", 2, mine.access_key) == many.pairs[0][0]
    engine.rows(place, "UPDATE key SET last_used_time = 7, pepper_version = 3")
    used = replace(mine, last_used_time=time_from(7))
    assert (
        StoredKey(used, b"\x01", 3, mine.access_key)
        == (await store.read(None, mine.access_key)).operator
    )
    renamed = (await put(store, ChangeType.KEY_UPDATED, replace(mine, purpose="x"))).keys[0]
    assert time_from(7) == (await store.get_key(renamed.access_key, None)).last_used_time  # type: ignore[union-attr]


async def test_read_of_many_keeps_order_and_duplicates(store: Store) -> None:
    """Each requested access key gets its pair at its position, however often it is repeated."""
    first, second = await create_project(store), await create_project(store)
    one, two = (
        await create(store, key(first.project_id)),
        await create(store, key(second.project_id)),
    )
    root = await create(store, operator())
    asked = [two.access_key, ABSENT, one.access_key, two.access_key, "it's \" \x00 \ud800"]
    pairs = [
        (held(two), second),
        (None, None),
        (held(one), first),
        (held(two), second),
        (None, None),
    ]
    many = Snapshots(Revision(5), pairs, held(root))
    await store.read_many(asked[2:3], None)  # one of them is kept, the others are not
    for _ in range(2):  # decoded, then remembered
        assert many == await store.read_many(asked, root.access_key)
    assert Snapshots(Revision(5), [], None) == await store.read_many([], None)


async def test_snapshots_during_writes_never_mix_two_states(
    store: Store, engine: Engine, place: str
) -> None:
    """Key and project of a snapshot belong to its head while both keep changing."""
    owner = await create_project(store)
    mine = await create(store, key(owner.project_id))
    other = engine.open(place)

    async def write() -> None:
        record, parent = mine, owner
        for _ in range(40):
            parent = (await put(store, ChangeType.PROJECT_UPDATED, parent)).project or parent
            record = (await put(store, ChangeType.KEY_UPDATED, record)).keys[0]

    writing = asyncio.create_task(write())
    looks = 0
    while not writing.done():
        head, found, project, _ = await other.read(mine.access_key, None)
        assert found is not None
        assert project is not None
        assert head == max(found.key.revision, project.revision)
        assert found.key.revision - project.revision in (1, -1)
        looks += 1
        await asyncio.sleep(0)
    await writing
    await other.close()
    assert looks > 0


async def test_scope_hides_records_of_other_projects(store: Store) -> None:
    """Outside its projects a confined caller finds nothing."""
    owner, foreign = await create_project(store), await create_project(store)
    mine = await create(store, key(owner.project_id))
    scope, foreign_scope = frozenset({owner.project_id}), frozenset({foreign.project_id})
    assert mine == await store.get_key(mine.access_key, scope)
    assert await store.get_key(mine.access_key, foreign_scope) is None
    assert owner == await store.get_project(owner.project_id, scope)
    assert await store.get_project(owner.project_id, foreign_scope) is None
    assert await store.get_project("absent", None) is None


async def test_newest_time_and_log_id_belong_to_the_log(
    store: Store, engine: Engine, place: str
) -> None:
    """Every store on a log reads the same log_id; an empty log has no newest time."""
    other = engine.open(place)
    assert store.log_id == other.log_id
    assert await store.newest_time() is None
    await create_project(store)
    assert NOON == await other.newest_time()
    await other.close()


async def test_long_records_are_decoded_outside_the_loop(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 256 KiB of lists each, the 32 keys of a small batch took 0.15 s to decode."""
    threads: set[int] = set()
    decode = json.loads

    def noted(text: str) -> Any:
        threads.add(threading.get_ident())
        return decode(text)

    names = [f"service{number}.example" for number in range(100)]
    targets = tuple(ApiTargetRestriction(name, tuple(names)) for name in names)
    heavy = [
        await create(store, operator(restrictions=Restrictions(api_targets=targets)))
        for _ in range(2)
    ]
    monkeypatch.setattr(json, "loads", noted)
    snapshots = await store.read_many([one.access_key for one in heavy], None)
    assert [(held(one), None) for one in heavy] == snapshots.pairs
    assert threading.get_ident() not in threads
    assert threads
