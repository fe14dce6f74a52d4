"""Freshness of cached records on an engine whose log is read in each call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from keyauthority.model import Key, Revision
from keyauthority_server.keyring import Keyring
from keyauthority_server.records import ExactFreshness, ReadOptions, RecordCache
from keyauthority_server.records.freshness import NAMES_MAX
from keyauthority_server.store.types import StoredKey
from tests.store.factories import held, operator
from tests.unit.fake_store import FakeStore


class Log:
    """A log of names, one for each revision after the first."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def head(self) -> Revision:
        """The newest revision."""
        return Revision(1 + len(self.names))

    def outline(self, access_key: str) -> StoredKey:
        """A key."""
        return held(operator(revision=1))

    def names_changed_since(self, after: Revision, limit: int) -> Sequence[str] | None:
        """The names after a revision."""
        names = self.names[after - 1 :]
        return None if len(names) > limit else names


@pytest.fixture
def log() -> Log:
    """An empty log."""
    return Log()


@pytest.fixture
async def cache(log: Log) -> RecordCache:
    """A cache that follows the log."""
    return RecordCache(FakeStore(), ExactFreshness(log), Keyring(Path("pepper"), {1: bytes(32)}))


async def cached(cache: RecordCache, *keys: Key) -> list[bool]:
    """Whether each key is in memory."""
    assert cache.catch_up()
    return [cache.verified(key.access_key) is not None for key in keys]


async def put(cache: RecordCache, log: Log, count: int) -> list[Key]:
    """Read keys at the head of the log, and prove their tokens."""
    store = cache._store
    assert isinstance(store, FakeStore)
    assert cache.catch_up()
    store.head = log.head()
    keys = [operator(revision=1) for _ in range(count)]
    store.keys = {key.access_key: held(key) for key in keys}
    snapshots = await cache.read([key.access_key for key in keys], None)
    for found, _ in snapshots.pairs:
        assert found is not None
        cache.mark_verified(found.key.access_key, found)
    return keys


async def test_records_changed_by_any_process_are_dropped_before_the_next_call(
    cache: RecordCache, log: Log
) -> None:
    """Exactly these are dropped; the position is the head."""
    first, second = await put(cache, log, 2)
    assert [True, True] == await cached(cache, first, second)
    log.names.append(first.access_key)
    assert [False, True] == await cached(cache, first, second)
    assert log.head() == cache.position


async def test_unnamed_excess_of_changes_drops_everything(cache: RecordCache, log: Log) -> None:
    """Up to the bound each changed record is named, and others stay."""
    (key,) = await put(cache, log, 1)
    log.names += ["another"] * NAMES_MAX
    assert [True] == await cached(cache, key)
    log.names += ["another"] * (NAMES_MAX + 1)
    assert [False] == await cached(cache, key)


async def test_read_overtaken_by_a_change_is_not_cached(cache: RecordCache, log: Log) -> None:
    """The log moved between the read and the check of its head."""
    (key,) = await put(cache, log, 1)
    store = cache._store
    assert isinstance(store, FakeStore)
    log.names += [key.access_key, key.access_key]
    store.head = Revision(2)
    snapshots = await cache.read([key.access_key], None)
    assert 2 == snapshots.head
    assert 0 == cache.keys


async def test_bookkeeping_is_always_read(cache: RecordCache, log: Log) -> None:
    """The last use has no change in the log."""
    await put(cache, log, 1)
    assert not cache.catch_up(ReadOptions(bookkeeping=True))
