"""Advisories: each appears with its cause and disappears with it, on records and observations."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final, cast

import pytest

from keyauthority.model import (
    AdvisoryType,
    KeyKind,
    KeyMode,
    VerdictCode,
)
from keyauthority_server.metering.usage import Meter
from keyauthority_server.store.interface import Store
from keyauthority_server.store.migrations import m0011_observations
from keyauthority_server.store.sql.queries import advisories as query
from keyauthority_server.store.sql.queries import observations
from tests.store.advisory_stories import CANARY, LIMITED, STORIES
from tests.store.advisory_world import DAY, HOUR, World
from tests.store.engines import Engine
from tests.store.factories import NOON, SECOND, create_project
from tests.store.test_usage import count, row

MINUTE: Final = timedelta(minutes=1)


@pytest.mark.parametrize("type_", AdvisoryType)
async def test_advisory_appears_with_its_cause_and_disappears_with_it(
    store: Store, type_: AdvisoryType
) -> None:
    """At each moment of its story a key has the advisory exactly if its cause is there."""
    world = await World.begin(store)
    seen = set()
    async for name, expected in STORIES[type_](world):
        seen.add(expected)
        found = {one.type for one in await world.advisories(type_) if one.access_key == name}
        assert ({type_} if expected else set()) == found
        assert expected is (type_ in await world.types_of(name))
    assert {True, False} == seen


async def test_decoy_and_ended_key_have_only_the_advisories_that_matter(store: Store) -> None:
    """Rest is no cause on a decoy; on a revoked key only its use after the end is one."""
    world = await World.begin(store)
    name = await world.create()
    await world.present(name)
    world.after(400 * DAY)
    idle = {AdvisoryType.DORMANT, AdvisoryType.UNRESTRICTED, AdvisoryType.OLD}
    assert idle == await world.types_of(name)
    await world.update(name, labels=CANARY)
    assert {AdvisoryType.UNRESTRICTED} == await world.types_of(name)
    await world.present(name)
    assert {AdvisoryType.CANARY_USED, AdvisoryType.UNRESTRICTED} == await world.types_of(name)
    await world.revoke(name)
    assert set() == await world.types_of(name)
    await world.present(name)
    assert {AdvisoryType.USED_AFTER_END} == await world.types_of(name)


async def test_sightings_count_from_their_start_and_name_the_last_peer(store: Store) -> None:
    """Uses before the rotation, the label or the end do not count; client_ip precedes the peer."""
    world = await World.begin(store)
    decoy, rotated, revoked = [await world.create() for _ in range(3)]
    for name in (decoy, rotated, revoked):
        await world.present(name, times=5)
    world.after(MINUTE)
    rotation = end = world.now
    await world.update(decoy, labels=CANARY)
    await world.rotate(rotated, HOUR)
    await world.revoke(revoked)
    for name in (decoy, rotated, revoked):
        world.after(MINUTE)
        await world.present(name, times=2, client_ip="2001:db8::1")
        await world.present(name, peer="192.0.2.9")
    found = {
        one.type: one
        for one in await world.advisories(
            AdvisoryType.CANARY_USED,
            AdvisoryType.OVERLAP_ENDING_IN_USE,
            AdvisoryType.USED_AFTER_END,
        )
    }
    assert [decoy, rotated, revoked] == [
        found[one].access_key
        for one in (
            AdvisoryType.CANARY_USED,
            AdvisoryType.OVERLAP_ENDING_IN_USE,
            AdvisoryType.USED_AFTER_END,
        )
    ]
    assert {(3, "192.0.2.9", ())} == {
        (one.count, one.last_peer, one.permissions) for one in found.values()
    }
    assert [world.now - 2 * MINUTE, rotation, end] == [
        found[one].since_time
        for one in (
            AdvisoryType.CANARY_USED,
            AdvisoryType.OVERLAP_ENDING_IN_USE,
            AdvisoryType.USED_AFTER_END,
        )
    ]
    assert world.now == found[AdvisoryType.USED_AFTER_END].last_time


async def test_presentations_within_one_flush_are_told_apart(store: Store) -> None:
    """A key that is rotated between two counts of one second is sighted from then on only."""
    world = await World.begin(store)
    name = await world.create()
    before = await store.get_key(name, None)
    await world.rotate(name, HOUR)
    after = await store.get_key(name, None)
    assert before is not None
    assert after is not None
    for record in (before, before, after):
        world.meter.count(record, VerdictCode.VALID, 1, world.now)
    await world.meter.flush()
    (found,) = await world.advisories(AdvisoryType.OVERLAP_ENDING_IN_USE)
    assert 1 == found.count


async def test_sightings_of_several_workers_add_up(store: Store) -> None:
    """Each worker stores its own counts; the newest presentation names the address."""
    world = await World.begin(store)
    name = await world.create(labels=CANARY)
    await world.present(name, times=2, peer="192.0.2.1")
    first = world.now
    other = Meter(store)
    record = await store.get_key(name, None)
    assert record is not None
    for seconds, peer in ((2, "192.0.2.3"), (1, "192.0.2.2")):
        time = world.now + seconds * SECOND
        other.count(record, VerdictCode.VALID, 1, time, peer=peer)
        await other.flush()
    (found,) = await world.advisories(AdvisoryType.CANARY_USED)
    assert (4, first, world.now + 2 * SECOND, "192.0.2.3") == (
        found.count,
        found.since_time,
        found.last_time,
        found.last_peer,
    )


async def test_counts_of_usage_begin_with_the_start_of_the_condition(store: Store) -> None:
    """EXPIRING counts from the hour of its start, UNUSED_PERMISSIONS from the day."""
    world = await World.begin(store)
    name = await world.create(
        kind=KeyKind.RESTRICTED,
        permissions=("orders:read", "orders:write"),
        expire_time=world.now + 40 * DAY,
    )
    await world.present(name, "orders:write", times=3)
    for days in (9, 1, 5):  # the expiry comes near on the tenth day
        world.after(days * DAY)
        await world.present(name, "orders:read", times=2)
    expiring, unused = await world.advisories(
        AdvisoryType.EXPIRING, AdvisoryType.UNUSED_PERMISSIONS, dormant_after=2 * DAY
    )
    assert world.now - 5 * DAY == expiring.since_time
    assert 4 == expiring.count
    assert ("orders:write",) == unused.permissions
    assert 9 == unused.count


async def test_month_of_ordinary_traffic_gives_no_advisory(store: Store) -> None:
    """Keys in use, a rotation with a switch in time, a planned end, a decoy that is not found."""
    world = await World.begin(store)
    permissions = ("orders:read", "billing.*:read", "orders.refunds:write")
    reader = await world.create(kind=KeyKind.RESTRICTED, permissions=permissions)
    backend = await world.create(restrictions=LIMITED)
    sandbox = await world.create(mode=KeyMode.TEST)
    leaving = await world.create(restrictions=LIMITED, expire_time=world.now + 300 * DAY)
    await world.create(restrictions=LIMITED, labels=CANARY)
    successor = ""
    for day in range(30):
        for name in (backend, sandbox, reader, *([leaving] if day < 20 else [])):
            await world.present(name, client_ip="192.0.2.7")
        await world.present(reader, permissions[0], "billing.invoices:read")
        if day % 7 == 0:  # a weekly job
            await world.present(reader, "orders.refunds:read")
        if day == 10:
            successor = await world.rotate(backend, 7 * DAY)
        elif day == 15:  # the service restarts with the new secret, two days before the end
            backend = successor
        elif day == 20:
            await world.revoke(leaving)
        if day > 7:
            found = await world.advisories(dormant_after=8 * DAY)
            assert [AdvisoryType.NEVER_USED] * len(found) == [
                one.type for one in found
            ]  # the decoy
            assert not await world.advisories()
        world.after(DAY)


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
async def test_pages_of_any_size_have_each_advisory_once_and_in_order(
    store: Store, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """A page may end between two advisories of one key, and a call reads few keys."""
    monkeypatch.setattr(query, "CANDIDATES", 2)
    monkeypatch.setattr(query, "CANDIDATES_AT_ONCE", 2)
    monkeypatch.setattr(query, "SCAN_ROWS", 3)
    world = await World.begin(store)
    names = [await world.create(**fields) for fields in ({}, {}, {"mode": KeyMode.TEST}, {}, {})]
    await world.present(names[0])
    world.after(400 * DAY)
    every = list(AdvisoryType)
    found = [(one.access_key, every.index(one.type)) for one in await world.advisories(limit=limit)]
    assert 4 * 3 + 2 == len(set(found)) == len(found)
    assert found == sorted(found, key=lambda one: (names.index(one[0]), one[1]))


async def test_pages_are_bounded_by_the_length_of_their_permissions(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page of 1,000 keys with a hundred long permissions each would have 50 MB."""
    monkeypatch.setattr(query, "PAGE_CHARACTERS", 1_000)
    world = await World.begin(store)
    granted = tuple(f"{name * 300}:read" for name in "ab")
    restricted = {"kind": KeyKind.RESTRICTED, "permissions": granted}
    names = [await world.create(**restricted) for _ in range(3)]
    world.after(100 * DAY)
    found = await world.advisories(AdvisoryType.UNUSED_PERMISSIONS, characters=1_000)
    assert [(name, granted) for name in names] == [
        (one.access_key, one.permissions) for one in found
    ]


async def test_scope_bounds_the_advisories(store: Store) -> None:
    """A confined caller gets those of its projects only; no project, none."""
    worlds = [await World.begin(store) for _ in range(3)]
    names = [await world.create() for world in worlds]
    one, two = worlds[0], worlds[1]
    for scope, expected in (
        (None, names),
        (frozenset({one.project_id, two.project_id}), names[:2]),
        (frozenset({(await create_project(store)).project_id}), []),
        (frozenset[str](), []),
    ):
        assert expected == [found.access_key for found in await one.advisories(scope=scope)]


async def test_sightings_and_permissions_kept_are_bounded(
    store: Store, engine: Engine, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each cause the newest sightings are kept; a permission taken away is forgotten."""
    monkeypatch.setattr(observations, "SIGHTINGS_KEPT", 2)
    world = await World.begin(store)
    decoys = [await world.create(labels=CANARY) for _ in range(3)]
    ended = await world.create(expire_time=world.now + SECOND)
    world.after(SECOND)
    for name in (ended, *decoys):
        await world.present(name)
        world.after(SECOND)
    assert [ended, *decoys[1:]] == [
        one.access_key
        for one in sorted(
            await world.advisories(AdvisoryType.CANARY_USED, AdvisoryType.USED_AFTER_END),
            key=lambda one: one.since_time,
        )
    ]
    name = await world.create(kind=KeyKind.RESTRICTED, permissions=("orders:read",))
    for number in range(100):
        await world.present(name, "orders:read", f"orders.n{number}:read")
    await world.update(name, permissions=("orders:write",))
    assert ["orders:write"] == [
        permission for (permission,) in engine.rows(place, "SELECT permission FROM permission_use")
    ]


async def test_sums_of_counts_saturate(store: Store) -> None:
    """Reported counts may add up beyond 64 bits."""
    world = await World.begin(store)
    record = await store.get_key(await world.create(), None)
    assert record is not None
    for days in range(3):
        time = NOON + days * DAY
        reported = row(record, 2**63 - 1, cost=0, bucket_time=time, last_used_time=time)
        await count(store, reported, now=time)
    (found,) = await world.advisories(AdvisoryType.UNRESTRICTED)
    assert 2**63 - 1 == found.count


async def test_use_of_permissions_before_it_was_observed_is_unknown(store: Store) -> None:
    """On a database of an older version the window begins with its upgrade."""
    world = await World.begin(store)
    name = await world.create(kind=KeyKind.RESTRICTED, permissions=("orders:read",))
    world.after(90 * DAY)
    assert AdvisoryType.UNUSED_PERMISSIONS in await world.types_of(name)
    await world.present(name)  # the last before the upgrade
    start = m0011_observations._START
    await store.write(lambda transaction: cast("Any", transaction)._open().run(start))
    world.after(89 * DAY)
    assert AdvisoryType.UNUSED_PERMISSIONS not in await world.types_of(name)
    world.after(DAY)
    assert AdvisoryType.UNUSED_PERMISSIONS in await world.types_of(name)
