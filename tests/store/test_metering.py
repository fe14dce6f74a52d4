"""Metering: counts kept in memory reach the store exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise
from time import monotonic
from typing import Any, cast

import pytest

from keyauthority.model import Key, UsageRow, VerdictCode
from keyauthority.requests import UsageQuery
from keyauthority_server.metering import usage
from keyauthority_server.metering.usage import Meter, metering
from keyauthority_server.store.interface import Store, StoreUnavailable
from keyauthority_server.store.sql.queries.usage import list_usage
from tests.store.engines import Engine
from tests.store.factories import NOON, SECOND
from tests.store.test_usage import keys_of

VALID, EXPIRED = VerdictCode.VALID, VerdictCode.EXPIRED


class Failing:
    """A store of which the answer to a write is lost, before or after its commit."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.before = self.after = False
        self.written = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def write(self, work: Callable[[Any], Any], **options: Any) -> Any:
        """Write, and fail as ordered."""
        if self.before:
            raise StoreUnavailable("not begun")
        result = await self._store.write(work, **options)
        self.written.set()
        if self.after:
            raise StoreUnavailable("committed, and nobody knows")
        return result


async def rows(store: Store) -> list[UsageRow]:
    """Return the counts of all hours."""
    return list((await store.query(list_usage, None, UsageQuery(), 0, 1000))[0])


async def one_key(store: Store) -> Key:
    """Make a key."""
    return (await keys_of(store, 1, 1))[0]


async def test_verifications_are_counted_by_hour_and_verdict(store: Store) -> None:
    """Each verification adds to the row of its hour and verdict; a denied one costs nothing."""
    key, meter = await one_key(store), Meter(store)
    next_hour = NOON.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
    for code, cost, time in (
        (VALID, 1, NOON),
        (VALID, 5, NOON + SECOND),
        (EXPIRED, 7, NOON + SECOND),
        (VALID, 0, next_hour),
    ):
        meter.count(key, code, cost, time)
    await meter.flush()
    assert [(VALID, 2, 6), (EXPIRED, 1, 0), (VALID, 1, 0)] == [
        (row.verdict, row.count, row.cost) for row in await rows(store)
    ]
    used = await store.get_key(key.access_key, None)
    assert used is not None
    assert next_hour == used.last_used_time


async def test_empty_flush_writes_nothing(store: Store, engine: Engine, place: str) -> None:
    """An idle server does not write every second."""
    meter = Meter(store)
    await meter.flush()
    assert [] == engine.rows(place, "SELECT 1 FROM usage_batch")


@pytest.mark.parametrize("committed", [True, False])
async def test_flush_with_lost_answer_counts_once(
    store: Store, engine: Engine, place: str, committed: bool
) -> None:
    """A flush with unknown outcome is submitted again and counts once; nothing is lost."""
    key, failing = await one_key(store), Failing(store)
    meter = Meter(failing)
    meter.count(key, VALID, 1, NOON)
    failing.before, failing.after = not committed, committed
    await meter.flush()
    meter.count(key, VALID, 1, NOON + SECOND)
    await meter.flush()
    failing.before = failing.after = False
    await meter.flush()
    await meter.flush()
    assert [2] == [row.count for row in await rows(store)]
    assert 1 == len(engine.rows(place, "SELECT 1 FROM usage_batch"))


async def test_counts_in_memory_are_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the store is down, new counts are capped and known ones go on."""
    monkeypatch.setattr(usage, "COUNTS_MAX", 2)
    keys, failing = await keys_of(store, 1, 4), Failing(store)
    meter, failing.before = Meter(cast("Store", failing)), True
    meter.count(keys[0], VALID, 1, NOON)
    await meter.flush()
    for key in (*keys[1:], *keys[1:]):
        meter.count(key, VALID, 1, NOON)
    assert not meter.is_full
    failing.before = False
    await meter.flush()
    await meter.flush()
    assert [1, 2, 2] == sorted(row.count for row in await rows(store))


async def test_more_counts_than_memory_permits_wait_for_a_flush(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None is lost; those of calls that are under way fit beside them."""
    monkeypatch.setattr(usage, "COUNTS_MAX", 2)
    keys = await keys_of(store, 1, 4)
    async with metering(store) as meter:
        for key in keys[:3]:
            meter.count(key, VALID, 1, NOON)
        assert meter.is_full
        async with asyncio.timeout(usage.FLUSH_SECONDS / 2):  # it does not wait for the second
            await meter.room()
        meter.count(keys[3], VALID, 1, NOON)
    assert [1] * 4 == [row.count for row in await rows(store)]


async def test_failing_store_ends_the_wait_for_room(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verdicts do not depend on a store that takes no counts."""
    monkeypatch.setattr(usage, "COUNTS_MAX", 1)
    (key,), failing = await keys_of(store, 1, 1), Failing(store)
    failing.before = True
    async with metering(cast("Store", failing)) as meter:
        meter.count(key, VALID, 1, NOON)
        assert meter.is_full
        async with asyncio.timeout(10):
            await meter.room()


async def test_flush_yields_to_a_revocation_between_its_transactions(store: Store) -> None:
    """However many keys were verified, each of its transactions is short."""
    keys = await keys_of(store, 1, usage.BATCH_ROWS + 1)
    sizes: list[int] = []

    class Watched(Failing):
        async def write(self, work: Callable[[Any], Any], **options: Any) -> Any:
            before = len(await rows(store))
            result = await super().write(work, **options)
            sizes.append(len(await rows(store)) - before)
            return result

    meter = Meter(cast("Store", Watched(store)))
    for key in keys:
        meter.count(key, VALID, 1, NOON)
    await meter.flush()
    assert [usage.BATCH_ROWS, 1] == sizes
    assert usage.BATCH_ROWS <= 200, "a RevokeKey waits for as long as one takes"


@pytest.mark.parametrize(
    ("rows", "seconds"), [(0, 1), (3_000, 1), (6_000, 2), (12_000, 4), (65_536, 5)]
)
def test_flushes_of_many_keys_are_less_frequent(rows: int, seconds: float) -> None:
    """Metering takes a bounded share of a core, and no count waits longer than five seconds."""
    assert seconds == usage.flush_interval(rows)


async def test_slow_flush_does_not_delay_the_next(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flush begins each second, however long the one before has taken."""
    monkeypatch.setattr(usage, "FLUSH_SECONDS", 0.4)
    (key,), times = await keys_of(store, 1, 1), list[float]()

    class Slow(Failing):
        async def write(self, work: Callable[[Any], Any], **options: Any) -> Any:
            times.append(monotonic())
            await asyncio.sleep(0.19)
            return await super().write(work, **options)

    async with metering(cast("Store", Slow(store))) as meter:
        while len(times) < 4:
            meter.count(key, VALID, 1, NOON)
            await asyncio.sleep(0.01)
    assert 0.55 > min(later - before for before, later in pairwise(times[:4]))


async def test_keys_are_flushed_in_the_order_of_tables(store: Store, engine: Engine) -> None:
    """Neighbours are written together, whatever the order of use, and both hours of a key."""
    keys, meter = await keys_of(store, 1, 5), Meter(store)
    for key in (*keys[::2], *keys[1::2]):
        meter.count(key, VALID, 1, NOON)
    meter.count(keys[0], VALID, 1, NOON + timedelta(hours=1))
    (batch,) = meter._taken()
    names = [count.access_key for count in batch.counts]
    assert sorted((*(key.access_key for key in keys), keys[0].access_key)) == names


async def test_full_buffer_is_flushed_early(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full buffer is flushed before the second is over."""
    monkeypatch.setattr(usage, "COUNTS_EARLY", 2)
    monkeypatch.setattr(usage, "FLUSH_SECONDS", 60)
    keys, watched = await keys_of(store, 1, 2), Failing(store)
    async with metering(watched) as meter:
        for key in keys:
            meter.count(key, VALID, 1, NOON)
        async with asyncio.timeout(10):
            await watched.written.wait()
        assert 2 == len(await rows(store))


async def test_close_flushes_all_counts(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """After close everything is stored, including an older batch that was delayed."""
    monkeypatch.setattr(usage, "FLUSH_SECONDS", 60)
    key, failing = await one_key(store), Failing(store)
    async with metering(failing) as meter:
        meter.count(key, VALID, 1, NOON)
        failing.before = True
        await meter.flush()
        failing.before = False
        meter.count(key, VALID, 1, NOON)
    assert [2] == [row.count for row in await rows(store)]
