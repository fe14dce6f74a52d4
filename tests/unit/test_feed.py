"""The change feed: each change once and in order to every follower, through failures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from keyauthority.model import Change, Project, Revision
from keyauthority.v1 import key_authority_service_pb2 as pb
from keyauthority_server.change_feed import Feed, ReplayBuffer, encode_change, following
from keyauthority_server.store.interface import Store, StoreUnavailable
from keyauthority_server.store.sqlite.store import migrate, open_store
from keyauthority_server.store.types import ChangePage
from tests.store.factories import create, create_project, key, sign
from tests.unit.waiting import PATIENCE, until


class Follower:
    """Records the deliveries."""

    def __init__(self) -> None:
        self.told: list[int] = []
        self.as_of: list[float] = []
        self.losses: list[int] = []
        self.failing = False

    def changed(self, changes: Sequence[Change], position: Revision) -> None:
        """Take changes, or fail."""
        if self.failing:
            raise RuntimeError("a fault of the follower")
        self.told += [one.revision for one in changes]
        assert position == self.told[-1]

    def beat(self, position: Revision, as_of: float) -> None:
        """Hear a heartbeat."""
        self.as_of.append(as_of)

    def lost(self, position: Revision) -> None:
        """Forget."""
        self.losses.append(position)


class Faulty:
    """The store, with an end of the log that a test can alter."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.tail: Callable[[ChangePage], ChangePage] = lambda tail: tail

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def read_changes(self, after: int, limit: int) -> ChangePage:
        """Read, and alter the result."""
        return self.tail(await self._store.read_changes(after, limit))


def unavailable(tail: ChangePage) -> ChangePage:
    """Fail."""
    raise StoreUnavailable("as told")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An empty database."""
    migrate(tmp_path / "keys.db")
    return tmp_path / "keys.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[Faulty]:
    """A store on it."""
    opened = open_store(path, sign)
    yield Faulty(opened)
    await opened.close()


@pytest.fixture
async def feed(store: Faulty) -> AsyncIterator[Feed]:
    """A feed that runs."""
    async with following(cast("Store", store)) as running:
        yield running


async def test_each_change_is_published_once(store: Faulty, feed: Feed, path: Path) -> None:
    """To every follower, from its start, for changes of this and other processes."""
    made = cast("Store", store)
    await create_project(made)
    early, late = Follower(), Follower()
    assert 1 == await feed.subscribe(early)
    other = open_store(path, sign)
    for writer in (made, other, made):
        await create_project(writer)
    await until(lambda: early.told == [2, 3, 4])
    assert 4 == await feed.subscribe(late)
    await create_project(other)
    await other.close()
    await until(lambda: late.told == [5] and early.told == [2, 3, 4, 5])


async def test_feed_without_followers_reads_nothing(store: Faulty, feed: Feed) -> None:
    """A follower after a pause begins at the head of that time."""
    made, first, second = cast("Store", store), Follower(), Follower()
    await feed.subscribe(first)
    feed.unsubscribe(first)
    await create_project(made)
    assert 1 == await feed.subscribe(second)
    await create_project(made)
    await until(lambda: second.told == [2])
    assert [] == first.told


async def test_heartbeats_do_not_claim_unread_changes(store: Faulty, feed: Feed) -> None:
    """While the store is unreadable they are as old as the last read."""
    follower = Follower()
    await feed.subscribe(follower)
    await until(lambda: follower.as_of)
    store.tail = unavailable
    await until(lambda: len(follower.as_of) > 3)
    assert follower.as_of[-1] == follower.as_of[-2]
    store.tail = lambda tail: tail
    await until(lambda: follower.as_of[-1] > follower.as_of[0])


async def test_shorter_log_is_published_as_lost(store: Faulty, feed: Feed) -> None:
    """Followers ahead of the store must drop their state."""
    made, follower = cast("Store", store), Follower()
    await create_project(made)
    await feed.subscribe(follower)
    store.tail = lambda tail: tail._replace(changes=(), head=Revision(0))
    await until(lambda: follower.losses == [0])


async def test_committed_changes_are_published_once_without_a_read(
    store: Faulty, feed: Feed
) -> None:
    """Those after the position at once, though the log is read too; others wait for that read."""
    made, follower = cast("Store", store), Follower()
    for _ in range(3):
        await create_project(made)
    log = await made.read_changes(0, 9)
    store.tail = lambda tail: log._replace(changes=log.changes[:1], head=Revision(1))
    assert 1 == await feed.subscribe(follower)

    def commit_meanwhile(tail: ChangePage) -> ChangePage:
        assert not feed.committed(Revision(2), log.changes[2:])
        assert follower.told or feed.committed(Revision(1), log.changes[1:2])
        return tail

    store.tail = commit_meanwhile
    await until(lambda: 3 in follower.told)
    assert [2, 3] == follower.told
    assert [] == follower.losses


async def test_failed_follower_is_notified_of_its_loss(store: Faulty, feed: Feed) -> None:
    """It does not continue silently, and the others receive everything."""
    made, failing, sound = cast("Store", store), Follower(), Follower()
    failing.failing = True
    await feed.subscribe(failing)
    await feed.subscribe(sound)
    await create_project(made)
    await until(lambda: failing.losses == [1] and sound.told == [1])


async def test_replay_buffer_is_bounded_by_changes(store: Faulty, feed: Feed) -> None:
    """A follower behind the buffer restarts; others continue at their cursor."""
    made, recent = cast("Store", store), ReplayBuffer(feed, changes_max=3)
    async with recent.watched():
        for _ in range(5):
            await create_project(made)
        await until(lambda: recent.position == 5)
        assert recent.since(Revision(1)) is None
        kept = recent.since(Revision(2))
        assert kept is not None
        assert [3, 4, 5] == [one.revision for one in kept]
        assert [] == list(recent.since(Revision(5)) or ())
        assert recent.since(Revision(6)) is None


async def test_replay_buffer_is_bounded_by_bytes(store: Faulty, feed: Feed) -> None:
    """The newest change is kept at any size."""
    made, recent = cast("Store", store), ReplayBuffer(feed, bytes_max=1)
    async with recent.watched():
        for _ in range(2):
            await create_project(made)
        await until(lambda: recent.position == 2)
        assert recent.since(Revision(0)) is None
        assert 1 == len(recent.since(Revision(1)) or ())


async def test_waiting_watchers_wake_on_change_heartbeat_and_close(
    store: Faulty, feed: Feed
) -> None:
    """On the first of them; one heartbeat serves all."""
    recent = ReplayBuffer(feed)
    async with recent.watched(), asyncio.timeout(PATIENCE):
        before = recent.heartbeats
        await asyncio.gather(*(recent.wait(recent.position, before) for _ in range(3)))
        assert before < recent.heartbeats
        waiting = asyncio.create_task(recent.wait(Revision(0), recent.heartbeats + 1000))
        await create_project(cast("Store", store))
        await waiting
        recent.end()
        await recent.wait(recent.position, recent.heartbeats)
    assert recent.watchers == 0


async def test_new_watchers_start_at_the_head(store: Faulty, feed: Feed, path: Path) -> None:
    """Earlier commits of other processes are before it, also for later watchers."""
    recent, other = ReplayBuffer(feed), open_store(path, sign)
    async with recent.watched():
        await create_project(other)
        async with recent.watched():
            assert 1 == recent.position
    await other.close()


async def test_encoded_change_omits_the_actor(store: Faulty) -> None:
    """Neither record nor bytes hold actor, address or note."""
    made = cast("Store", store)
    project: Project = await create_project(made)
    secrets = {"created_by": "the-actor", "created_from": "192.0.2.7", "revoke_note": "the-note"}
    await create(made, key(project.project_id, **secrets))
    (change,) = (await made.read_changes(1, 2)).changes
    packed = encode_change(change)
    told = pb.WatchChangesResponse.FromString(packed.body).changes[0]
    assert (2, project.project_id) == (told.revision, packed.project_id)
    assert change.keys[0].access_key == told.keys[0].access_key
    assert pb.WatchChangesResponse.FromString(packed.body * 2).changes == [told, told]
    for text in (*secrets.values(), "KA7Q2M9X4T8B3N6W5R1P"):
        assert text.encode() not in packed.body
