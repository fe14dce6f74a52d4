"""Records in memory: never older than what was told, never shown when nobody knows how old."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keyauthority.model import Change, Key, Revision
from keyauthority.token import new_access_key
from keyauthority_server.cache import Cache
from keyauthority_server.peppers import Keyring
from keyauthority_server.private_files import write_private
from keyauthority_server.store.base import StoreStale, StoreUnavailable
from keyauthority_server.store.values import Wanted
from tests.store.making import NOON, held, key, operator, project
from tests.unit.told import Told

MAX_STALENESS = 60.0  # seconds: longer than a test takes
LONG_AGO = -1_000.0
PEPPER = Path("pepper")
ABSENT = new_access_key()


@pytest.fixture
async def told() -> Told:
    """A store."""
    return Told()


@pytest.fixture
def peppers() -> Keyring:
    """Peppers of one version."""
    return Keyring(PEPPER, {1: bytes(32)})


@pytest.fixture
def cache(told: Told, peppers: Keyring) -> Cache:
    """A cache of it, at its head."""
    return made(told, peppers)


@pytest.fixture
def mine(told: Told) -> Key:
    """A key of a project."""
    of = project(revision=1)
    told.projects[of.project_id] = of
    return put(told, key(of.project_id, revision=1))


def made(told: Told, peppers: Keyring, **bounds: Any) -> Cache:
    """Return a cache of a store, at its head."""
    cache = Cache(told, told, peppers, MAX_STALENESS, **bounds)
    cache.position = told.head
    return cache


def put(told: Told, record: Key) -> Key:
    """Have a key in the store."""
    told.keys[record.access_key] = held(record)
    return record


def tell(cache: Cache, *changes: Change) -> None:
    """Tell of changes."""
    cache.changed(changes, Revision(changes[-1].revision))


async def reads(told: Told, cache: Cache, access_key: str, wanted: Wanted | None = None) -> int:
    """Look at a key; return how often the store was asked."""
    before = told.reads
    await (cache.look(access_key, None, wanted) if wanted else cache.look(access_key, None))
    return told.reads - before


async def test_what_was_read_is_answered_from_memory(told: Told, cache: Cache, mine: Key) -> None:
    """Key, project and operator, as one state: the store is asked once."""
    root = put(told, operator(revision=1))
    read = await cache.look(mine.access_key, root.access_key)
    assert (1, held(mine), told.projects[mine.project_id], held(root)) == read
    assert read == await cache.look(mine.access_key, root.access_key)
    assert (None, held(root)) == (await cache.look(None, root.access_key))[2:]
    assert 1 == told.reads
    assert (2, 1) == cache.count()
    assert (0, 0) == cache.count()
    assert 2 == cache.keys


async def test_change_is_made_to_what_is_kept(told: Told, cache: Cache, mine: Key) -> None:
    """All but digest and last use, which no change tells of; the answer is of its revision."""
    told.keys[mine.access_key] = held(replace(mine, last_used_time=NOON))
    await cache.look(mine.access_key, None)
    tell(cache, told.change(replace(mine, disabled=True)))
    seen = await cache.look(mine.access_key, None)
    disabled = replace(mine, disabled=True, last_used_time=NOON, revision=2)
    assert (2, held(disabled)) == seen[:2]
    assert 1 == told.reads


async def test_key_that_was_revoked_is_not_kept_unless_it_is_asked_for(
    told: Told, cache: Cache, mine: Key
) -> None:
    """Few ask for it again, and it would be kept for all time: it is read, as revoked."""
    await cache.look(mine.access_key, None)
    tell(cache, told.change(replace(mine, revoke_time=NOON)))
    assert 0 == cache.keys
    for _ in range(2):
        seen = await cache.look(mine.access_key, None)
        assert seen.held is not None
        assert (2, NOON, 2) == (seen.head, seen.held.key.revoke_time, told.reads)
    assert 1 == cache.keys


async def test_change_of_a_project_is_made_to_what_is_kept(
    told: Told, cache: Cache, mine: Key
) -> None:
    """A project that was suspended is, for each of its keys."""
    await cache.look(mine.access_key, None)
    tell(cache, told.change(replace(told.projects[mine.project_id], suspended=True)))
    seen = await cache.look(mine.access_key, None)
    assert (2, True, 1) == (seen.head, seen.project and seen.project.suspended, told.reads)


async def test_what_was_read_before_a_change_was_told_is_thrown_away(
    told: Told, cache: Cache, mine: Key
) -> None:
    """A read that was under way undoes no revocation, whatever its own caller is answered."""
    told.gate.clear()
    reading = asyncio.create_task(cache.look(mine.access_key, None))
    await told.reading.wait()
    tell(cache, told.change(replace(mine, revoke_time=NOON)))
    told.gate.set()
    assert 1 == (await reading).head
    seen = await cache.look(mine.access_key, None)
    assert seen.held is not None
    assert (2, NOON, 2) == (seen.head, seen.held.key.revoke_time, told.reads)


async def test_key_that_is_newer_than_what_was_told_waits(told: Told, cache: Cache) -> None:
    """It is shown from its revision on."""
    mine = put(told, operator(revision=1))
    changes = [told.change(operator(revision=0)), told.change(replace(mine, disabled=True))]
    assert 3 == (await cache.look(mine.access_key, None)).head
    for change in changes:
        assert 1 == await reads(told, cache, mine.access_key)
        tell(cache, change)
    seen = await cache.look(mine.access_key, None)
    assert seen.held is not None
    assert (3, True, 3) == (seen.head, seen.held.key.disabled, told.reads)


async def test_project_that_is_newer_than_what_was_told_waits(
    told: Told, cache: Cache, mine: Key
) -> None:
    """As a key does: what was read of another key of the project, later, is not shown with it."""
    of = told.projects[mine.project_id]
    other = put(told, key(of.project_id, revision=1))
    await cache.look(mine.access_key, None)
    changes = [told.change(operator(revision=0)), told.change(replace(of, suspended=True))]
    await cache.look(other.access_key, None)
    for change in changes:
        assert 1 == await reads(told, cache, mine.access_key)
        tell(cache, change)
    seen = await cache.look(mine.access_key, None)
    assert (3, told.projects[of.project_id]) == (seen.head, seen.project)


async def test_position_is_told_when_all_changes_are_made(
    told: Told, cache: Cache, mine: Key
) -> None:
    """Nobody is shown half of what was told under the revision of all of it."""
    await cache.look(mine.access_key, None)
    positions = []

    class Watched(list[Change]):
        def __iter__(self) -> Iterator[Change]:
            for one in super().__iter__():
                positions.append(cache.position)
                yield one
            positions.append(cache.position)

    changes = [told.change(replace(mine, purpose=str(number))) for number in range(2)]
    cache.changed(Watched(changes), told.head)
    assert ([1, 1, 1], 3) == (positions, cache.position)


async def test_log_that_was_lost_is_forgotten(told: Told, cache: Cache, mine: Key) -> None:
    """Key, project and what is absent: all is read anew."""
    await cache.look(mine.access_key, None)
    await cache.look(ABSENT, None)
    cache.lost(Revision(1))
    assert 0 == cache.keys
    assert [1, 1] == [await reads(told, cache, name) for name in (mine.access_key, ABSENT)]


async def test_what_was_being_read_when_the_log_was_lost_is_no_answer(
    told: Told, cache: Cache, mine: Key
) -> None:
    """It may be of the log that is no more, though its number is high enough."""
    told.gate.clear()
    reading = asyncio.create_task(cache.look(mine.access_key, None))
    await told.reading.wait()
    cache.lost(Revision(0))
    told.gate.set()
    with pytest.raises(StoreUnavailable):
        await reading
    assert 0 == cache.keys


async def test_absent_key_is_remembered_until_it_is_made(told: Told, cache: Cache) -> None:
    """Who asks for a key that is not there is answered from memory, and no longer."""
    late = key("", revision=0)
    assert [1, 0] == [await reads(told, cache, late.access_key) for _ in range(2)]
    tell(cache, told.change(late))
    assert held(replace(late, revision=2)) == (await cache.look(late.access_key, None)).held
    assert 2 == told.reads


async def test_digest_is_shown_under_the_current_pepper_only(
    told: Told, mine: Key, tmp_path: Path
) -> None:
    """Until it was made anew, which no change tells of, the record is read each time."""
    write_private(tmp_path / "pepper", f"1 {'0' * 64}\n2 {'1' * 64}\n")
    peppers = Keyring.load(tmp_path / "pepper")
    known = dict(peppers.check_values())
    peppers.use({"pepper/1": known["pepper/1"]})
    cache = made(told, peppers)
    assert [1, 0] == [await reads(told, cache, mine.access_key) for _ in range(2)]
    peppers.use(known)
    assert [1, 1] == [await reads(told, cache, mine.access_key) for _ in range(2)]
    told.keys[mine.access_key] = held(mine, pepper_version=2)
    assert [1, 0] == [await reads(told, cache, mine.access_key) for _ in range(2)]
    assert held(mine, pepper_version=2) == (await cache.look(mine.access_key, None)).held


async def test_what_is_kept_is_bounded(told: Told, peppers: Keyring) -> None:
    """What is kept longest makes room; keys that are not there take none from those that are."""
    cache = made(told, peppers, keys_max=2, absent_max=2)
    names = [put(told, operator(revision=1)).access_key for _ in range(3)]
    for name in (*names, *(new_access_key() for _ in range(5))):
        await cache.look(name, None)
    assert 2 == cache.keys
    assert [0, 0, 1] == [await reads(told, cache, name) for name in reversed(names)]
    absent = [new_access_key() for _ in range(3)]
    for name in absent:
        await cache.look(name, None)
    assert [0, 0, 1] == [await reads(told, cache, name) for name in reversed(absent)]


async def test_heavy_keys_take_the_room_of_several(told: Told, peppers: Keyring) -> None:
    """Those that are read, and those that grow by a change."""
    many = tuple(f"{number:0100}" for number in range(100))
    cache = made(told, peppers, keys_max=4)
    names = [put(told, operator(revision=1)).access_key for _ in range(3)]
    for name in names:
        await cache.look(name, None)
    heavy = put(told, replace(operator(revision=1), operator_projects=many))
    await cache.look(heavy.access_key, None)
    assert 1 == cache.keys
    for name in names:
        await cache.look(name, None)
    assert 3 == cache.keys
    grown = replace(told.keys[names[-1]].key, operator_projects=many)
    tell(cache, told.change(grown))
    assert 1 == cache.keys


async def test_old_position_is_not_shown_but_read_through(
    told: Told, cache: Cache, mine: Key
) -> None:
    """A feed that lags does not matter while reads prove themselves."""
    await cache.look(mine.access_key, None)
    told.as_of = LONG_AGO
    assert 1 == await reads(told, cache, mine.access_key)
    assert MAX_STALENESS < cache.staleness


async def test_nothing_is_asked_when_no_commit_proves_the_store(
    told: Told, cache: Cache, mine: Key
) -> None:
    """Nobody can tell then what a read is worth: it fails at once."""
    await cache.look(mine.access_key, None)
    told.as_of = told.proven_at = LONG_AGO
    with pytest.raises(StoreStale):
        await cache.look(mine.access_key, None)
    with pytest.raises(StoreStale):
        await cache.look_many([mine.access_key], None)
    assert 1 == told.reads


async def test_read_that_proves_nothing_is_no_answer(told: Told, cache: Cache, mine: Key) -> None:
    """An old primary answers as ever; that a commit was made elsewhere does not make it fresh."""
    told.read_as_of = LONG_AGO
    with pytest.raises(StoreStale):
        await cache.look(mine.access_key, None)
    assert 0 == cache.keys


async def test_unproven_read_serves_what_is_judged_again_and_is_not_kept(
    told: Told, cache: Cache, mine: Key
) -> None:
    """Who wants to change something is admitted: his commit tells whether he could."""
    told.as_of = told.proven_at = told.read_as_of = LONG_AGO
    unproven = Wanted(proven=False)
    assert held(mine) == (await cache.look(mine.access_key, None, unproven)).held
    assert 0 == cache.keys


@pytest.mark.parametrize("wanted", [Wanted(at_least=2), Wanted(bookkeeping=True)])
async def test_what_memory_is_not_good_enough_for_is_read(
    told: Told, cache: Cache, mine: Key, wanted: Wanted
) -> None:
    """A revision beyond the position, and the last use as it is now."""
    await cache.look(mine.access_key, None)
    assert 1 == await reads(told, cache, mine.access_key, wanted)
    assert 0 == await reads(told, cache, mine.access_key, Wanted(at_least=1))


async def test_own_change_that_was_not_told_yet_is_read(
    told: Told, cache: Cache, mine: Key
) -> None:
    """The process that has acknowledged a revocation refuses the key from then on."""
    await cache.look(mine.access_key, None)
    revoked = told.change(replace(mine, revoke_time=NOON))
    told.acknowledged = told.head
    assert 2 == (await cache.look(mine.access_key, None)).head
    tell(cache, revoked)
    assert 0 == await reads(told, cache, mine.access_key)


async def test_batch_is_of_one_state(told: Told, cache: Cache, mine: Key) -> None:
    """From memory if all of it is there, else all of it is read; in the order asked for."""
    root = put(told, operator(revision=1))
    asked = [mine.access_key, ABSENT]
    await cache.look(mine.access_key, root.access_key)
    read = await cache.look_many(asked, root.access_key)
    assert 2 == told.reads
    assert read == await cache.look_many(asked, root.access_key)
    assert (1, [told.pair(name) for name in asked], held(root)) == read
    assert 2 == told.reads
