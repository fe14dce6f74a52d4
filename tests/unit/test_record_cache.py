"""The record cache: never behind the changes it has applied, unused when freshness is unproven."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from keyauthority.model import Change, Key, Project, Revision
from keyauthority.token import new_access_key
from keyauthority.weight import weight_of
from keyauthority_server.keyring import Keyring
from keyauthority_server.private_files import write_private
from keyauthority_server.records import ANY, CacheCounts, ProvenFreshness, ReadOptions, RecordCache
from keyauthority_server.records.cache import TOKEN_MAX
from keyauthority_server.store.interface import StoreStale, StoreUnavailable
from keyauthority_server.store.types import StoredKey
from tests.store.factories import NOON, held, key, operator, project
from tests.unit.fake_store import FakeStore

MAX_STALENESS = 60.0  # seconds: longer than a test takes
LONG_AGO = -1_000.0
PEPPER = Path("pepper")
ABSENT = new_access_key()


@pytest.fixture
async def store() -> FakeStore:
    """A store."""
    return FakeStore()


@pytest.fixture
def peppers() -> Keyring:
    """Peppers of one version."""
    return Keyring(PEPPER, {1: bytes(32)})


@pytest.fixture
def cache(store: FakeStore, peppers: Keyring) -> RecordCache:
    """A cache of it, at its head."""
    return made(store, peppers)


@pytest.fixture
def mine(store: FakeStore) -> Key:
    """A key of a project."""
    of = project(revision=1)
    store.projects[of.project_id] = of
    return put(store, key(of.project_id, revision=1))


def made(store: FakeStore, peppers: Keyring, **bounds: Any) -> RecordCache:
    """Return a cache of a store, at its head."""
    cache = RecordCache(store, ProvenFreshness(store, store, MAX_STALENESS), peppers, **bounds)
    cache.position = store.head
    return cache


def put(store: FakeStore, record: Key) -> Key:
    """Have a key in the store."""
    store.keys[record.access_key] = held(record)
    return record


def tell(cache: RecordCache, *changes: Change) -> None:
    """Tell of changes."""
    cache.changed(changes, Revision(changes[-1].revision))


class Seen(NamedTuple):
    """The records that a call would be evaluated with."""

    head: Revision
    stored: StoredKey | None
    project: Project | None


async def look(cache: RecordCache, access_key: str, wanted: ReadOptions = ANY) -> Seen:
    """Take a key from memory, else read it, as a Verify does; its name stands for its token."""
    if cache.catch_up(wanted) and (cached := cache.verified(access_key)) is not None:
        project_id = cached.stored.key.project_id
        project = cache.project(project_id)
        if project is not None or not project_id:
            return Seen(cache.position, cached.stored, project)
    snapshots = await cache.read((access_key,), None, wanted)
    ((found, project),) = snapshots.pairs
    if found is not None:
        cache.mark_verified(access_key, found)
    return Seen(snapshots.head, found, project)


async def reads(
    store: FakeStore, cache: RecordCache, access_key: str, wanted: ReadOptions = ANY
) -> int:
    """Look at a key; return how often the store was asked."""
    before = store.reads
    await look(cache, access_key, wanted)
    return store.reads - before


async def test_proven_token_is_answered_from_memory(
    store: FakeStore, cache: RecordCache, mine: Key
) -> None:
    """Key and project are one state: the store is read once."""
    read = await look(cache, mine.access_key)
    assert (1, held(mine), store.projects[mine.project_id]) == read
    assert read == await look(cache, mine.access_key)
    assert 1 == store.reads
    assert CacheCounts(hit=1, miss=1, catch_up=0) == cache.take_counts()
    assert CacheCounts(0, 0, 0) == cache.take_counts()
    assert 1 == cache.keys


async def test_unproven_token_is_read_each_time(
    store: FakeStore, cache: RecordCache, mine: Key
) -> None:
    """Another token of a cached key, and one of no key, are never answered from memory."""
    await look(cache, mine.access_key)
    assert cache.verified("another token") is None
    assert cache.verified("x" * (TOKEN_MAX + 1)) is None
    assert [1, 1] == [await reads(store, cache, ABSENT) for _ in range(2)]


async def test_proof_is_bound_to_its_record(
    store: FakeStore, cache: RecordCache, mine: Key
) -> None:
    """A record that changed after the read is not proven by the older one."""
    snapshots = await cache.read((mine.access_key,), None)
    ((older, _),) = snapshots.pairs
    tell(cache, store.change(replace(mine, disabled=True)))
    assert older is not None
    cache.mark_verified("token", older)
    assert cache.verified("token") is None


async def test_cached_operator_is_read_again_only_if_the_log_moved(
    store: FakeStore, cache: RecordCache, mine: Key
) -> None:
    """It has the state of the keys that are read, or is read with them."""
    root = put(store, operator(revision=1))
    await look(cache, root.access_key)
    cached = cache.verified(root.access_key)
    assert held(root) == (await cache.read((mine.access_key,), cached)).operator
    assert 2 == store.reads
    store.change(replace(root, disabled=True))
    found = (await cache.read((mine.access_key,), cached)).operator
    assert found is not None
    assert found.key.disabled
    assert 4 == store.reads


async def test_change_updates_the_cached_record(
    store: FakeStore, cache: RecordCache, mine: Key
) -> None:
    """Except digest and last use, which no change holds; the answer has its revision."""
    store.keys[mine.access_key] = held(replace(mine, last_used_time=NOON))
    await look(cache, mine.access_key)
    tell(cache, store.change(replace(mine, disabled=True)))
    seen = await look(cache, mine.access_key)
    disabled = replace(mine, disabled=True, last_used_time=NOON, revision=2)
    assert (2, held(disabled)) == (seen.head, seen.stored)
    assert 1 == store.reads


async def test_revoked_key_is_dropped_until_it_is_requested(
    store: FakeStore, cache: RecordCache, mine: Key
) -> None:
    """It is rarely requested and would stay forever: it is read, as revoked."""
    await look(cache, mine.access_key)
    tell(cache, store.change(replace(mine, revoke_time=NOON)))
    assert 0 == cache.keys
    for _ in range(2):
        seen = await look(cache, mine.access_key)
        assert seen.stored is not None
        assert (2, NOON, 2) == (seen.head, seen.stored.key.revoke_time, store.reads)
    assert 1 == cache.keys


async def test_change_updates_the_cached_project(
    store: FakeStore, cache: RecordCache, mine: Key
) -> None:
    """A suspended project applies to each of its keys."""
    await look(cache, mine.access_key)
    tell(cache, store.change(replace(store.projects[mine.project_id], suspended=True)))
    seen = await look(cache, mine.access_key)
    assert (2, True, 1) == (seen.head, seen.project and seen.project.suspended, store.reads)


async def test_read_overtaken_by_a_change_is_not_cached(
    store: FakeStore, cache: RecordCache, mine: Key
) -> None:
    """A read in progress undoes no revocation, for any answer to its caller."""
    store.gate.clear()
    reading = asyncio.create_task(look(cache, mine.access_key))
    await store.reading.wait()
    tell(cache, store.change(replace(mine, revoke_time=NOON)))
    store.gate.set()
    assert 1 == (await reading).head
    seen = await look(cache, mine.access_key)
    assert seen.stored is not None
    assert (2, NOON, 2) == (seen.head, seen.stored.key.revoke_time, store.reads)


async def test_key_newer_than_the_feed_is_held_back(store: FakeStore, cache: RecordCache) -> None:
    """It is served from its revision on."""
    mine = put(store, operator(revision=1))
    changes = [store.change(operator(revision=0)), store.change(replace(mine, disabled=True))]
    assert 3 == (await look(cache, mine.access_key)).head
    for change in changes:
        assert 1 == await reads(store, cache, mine.access_key)
        tell(cache, change)
    seen = await look(cache, mine.access_key)
    assert seen.stored is not None
    assert (3, True, 3) == (seen.head, seen.stored.key.disabled, store.reads)


async def test_project_newer_than_the_feed_is_held_back(
    store: FakeStore, cache: RecordCache, mine: Key
) -> None:
    """As for a key: a later read of another key of the project is not mixed with it."""
    of = store.projects[mine.project_id]
    other = put(store, key(of.project_id, revision=1))
    await look(cache, mine.access_key)
    changes = [store.change(operator(revision=0)), store.change(replace(of, suspended=True))]
    await look(cache, other.access_key)
    for change in changes:
        assert 1 == await reads(store, cache, mine.access_key)
        tell(cache, change)
    seen = await look(cache, mine.access_key)
    assert (3, store.projects[of.project_id]) == (seen.head, seen.project)


async def test_position_advances_after_all_changes_of_a_batch(
    store: FakeStore, cache: RecordCache, mine: Key
) -> None:
    """Readers see all of a published batch of changes under its revision, or none of it."""
    await look(cache, mine.access_key)
    positions = []

    class Watched(list[Change]):
        def __iter__(self) -> Iterator[Change]:
            for one in super().__iter__():
                positions.append(cache.position)
                yield one
            positions.append(cache.position)

    changes = [store.change(replace(mine, purpose=str(number))) for number in range(2)]
    cache.changed(Watched(changes), store.head)
    assert ([1, 1, 1], 3) == (positions, cache.position)


async def test_lost_log_drops_the_cache(store: FakeStore, cache: RecordCache, mine: Key) -> None:
    """Key, project and proof are all read again."""
    await look(cache, mine.access_key)
    cache.lost(Revision(1))
    assert 0 == cache.keys
    assert 1 == await reads(store, cache, mine.access_key)


async def test_read_in_progress_when_the_log_was_lost_gives_no_answer(
    store: FakeStore, cache: RecordCache, mine: Key
) -> None:
    """It may belong to the lost log although its revision is high enough."""
    store.gate.clear()
    reading = asyncio.create_task(look(cache, mine.access_key))
    await store.reading.wait()
    cache.lost(Revision(0))
    store.gate.set()
    with pytest.raises(StoreUnavailable):
        await reading
    assert 0 == cache.keys


async def test_digest_is_served_under_the_current_pepper_only(
    store: FakeStore, mine: Key, tmp_path: Path
) -> None:
    """Until its upgrade, which no change announces, the record is read each time."""
    write_private(tmp_path / "pepper", f"1 {'0' * 64}\n2 {'1' * 64}\n")
    peppers = Keyring.load(tmp_path / "pepper")
    known = dict(peppers.check_values())
    peppers.use({"pepper/1": known["pepper/1"]})
    cache = made(store, peppers)
    assert [1, 0] == [await reads(store, cache, mine.access_key) for _ in range(2)]
    peppers.use(known)
    assert [1, 1] == [await reads(store, cache, mine.access_key) for _ in range(2)]
    store.keys[mine.access_key] = held(mine, pepper_version=2)
    assert [1, 0] == [await reads(store, cache, mine.access_key) for _ in range(2)]
    assert held(mine, pepper_version=2) == (await look(cache, mine.access_key)).stored


async def test_cache_is_bounded_by_weight(store: FakeStore, peppers: Keyring) -> None:
    """The oldest records are evicted together with their proofs."""
    cache = made(store, peppers, keys_max=2)
    names = [put(store, operator(revision=1)).access_key for _ in range(3)]
    for name in names:
        await look(cache, name)
    assert 2 == cache.keys
    assert 2 == len(cache._proofs)
    assert [0, 0, 1] == [await reads(store, cache, name) for name in reversed(names)]


async def test_heavy_keys_evict_several_light_ones(store: FakeStore, peppers: Keyring) -> None:
    """Keys that were read heavy, and keys that grow by a change."""
    many = tuple(f"{number:0100}" for number in range(100))
    cache = made(store, peppers, keys_max=4)
    names = [put(store, operator(revision=1)).access_key for _ in range(3)]
    for name in names:
        await look(cache, name)
    heavy = put(store, replace(operator(revision=1), operator_projects=many))
    await look(cache, heavy.access_key)
    assert 1 == cache.keys
    for name in names:
        await look(cache, name)
    assert 3 == cache.keys
    grown = replace(store.keys[names[-1]].key, operator_projects=many)
    tell(cache, store.change(grown))
    assert 1 == cache.keys


async def test_one_read_replaces_a_part_of_the_cache(store: FakeStore, peppers: Keyring) -> None:
    """A batch of heavy keys evicts few others, and takes little time to weigh."""
    many = tuple(f"{number:0100}" for number in range(100))
    cache = made(store, peppers, keys_max=64)
    light = [put(store, operator(revision=1)).access_key for _ in range(10)]
    heavy = [put(store, operator(revision=1, operator_projects=many)) for _ in range(20)]
    await cache.read(light, None)
    await cache.read([one.access_key for one in heavy], None)
    kept = [one.access_key in cache._keys for one in heavy]
    assert all(name in cache._keys for name in light)
    assert (
        16 <= sum(weight_of(one) for one, is_kept in zip(heavy, kept, strict=True) if is_kept) < 32
    )


async def test_stale_position_reads_through(
    store: FakeStore, cache: RecordCache, mine: Key
) -> None:
    """A lagging feed does no harm while reads prove their freshness."""
    await look(cache, mine.access_key)
    store.as_of = LONG_AGO
    assert 1 == await reads(store, cache, mine.access_key)
    assert MAX_STALENESS < cache.staleness


async def test_unproven_store_fails_at_once(
    store: FakeStore, cache: RecordCache, mine: Key
) -> None:
    """Without a proving commit the freshness of a read is unknown."""
    await look(cache, mine.access_key)
    store.as_of = store.proven_at = LONG_AGO
    with pytest.raises(StoreStale):
        await look(cache, mine.access_key)
    assert 1 == store.reads


async def test_read_from_an_unproven_source_gives_no_answer(
    store: FakeStore, cache: RecordCache, mine: Key
) -> None:
    """An old primary still answers; a commit elsewhere does not make it fresh."""
    store.read_as_of = LONG_AGO
    with pytest.raises(StoreStale):
        await look(cache, mine.access_key)
    assert 0 == cache.keys


async def test_unproven_read_is_allowed_for_changes_and_not_cached(
    store: FakeStore, cache: RecordCache, mine: Key
) -> None:
    """A change is checked again at its commit."""
    store.as_of = store.proven_at = store.read_as_of = LONG_AGO
    unproven = ReadOptions(proven=False)
    assert held(mine) == (await look(cache, mine.access_key, unproven)).stored
    assert 0 == cache.keys


@pytest.mark.parametrize("wanted", [ReadOptions(at_least=2), ReadOptions(bookkeeping=True)])
async def test_unsuitable_cached_record_is_read(
    store: FakeStore, cache: RecordCache, mine: Key, wanted: ReadOptions
) -> None:
    """For a revision after the position, and for the current last use."""
    await look(cache, mine.access_key)
    assert 1 == await reads(store, cache, mine.access_key, wanted)
    assert 0 == await reads(store, cache, mine.access_key, ReadOptions(at_least=1))


async def test_own_change_ahead_of_the_feed_is_read(
    store: FakeStore, cache: RecordCache, mine: Key
) -> None:
    """A process that acknowledged a revocation rejects the key at once."""
    await look(cache, mine.access_key)
    revoked = store.change(replace(mine, revoke_time=NOON))
    store.acknowledged = store.head
    assert 2 == (await look(cache, mine.access_key)).head
    tell(cache, revoked)
    assert 0 == await reads(store, cache, mine.access_key)
