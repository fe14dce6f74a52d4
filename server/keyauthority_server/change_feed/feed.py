"""The log's end, followed: each change is read once, and told to all who have subscribed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final, Protocol

import structlog

from keyauthority.model import Change, Revision
from keyauthority_server.store.interface import Store, StoreError

BEAT_SECONDS: Final = 0.4  # watchers are promised word each 0.5 s; a loop may be late
CHANGES_AT_ONCE: Final = 64  # read in the event loop: some 3 ms
RETRY_SECONDS: Final = 0.05  # until a store that failed is asked again

_log = structlog.get_logger(__name__)


class Subscriber(Protocol):
    """Is told of changes, in the event loop. It must not block, and must not raise."""

    def changed(self, changes: Sequence[Change], position: Revision) -> None:
        """Take the changes behind the position told last, in order and up to this one."""
        ...

    def beat(self, position: Revision, as_of: float) -> None:
        """Hear that nothing was committed before `as_of` but what was told, up to `position`.

        It comes each `BEAT_SECONDS`. While the store cannot be read `as_of` stays what it was: see
        `values.Tail`.
        """
        ...

    def lost(self, position: Revision) -> None:
        """Forget all that was told: the log ends before it. What is told next follows `position`.

        So it is after a failover to a replica that lacked the last changes.
        """
        ...


class Feed:
    """Follows the log while anybody has subscribed. Make it with `following`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._subscribers: list[Subscriber] = []
        self._wanted = asyncio.Event()
        self._reading = asyncio.Lock()
        self._position = Revision(0)
        self.as_of = float("-inf")
        """No change that was committed before this moment is missing; see `values.Tail`."""
        self._paused = True

    async def subscribe(self, subscriber: Subscriber) -> Revision:
        """Tell the subscriber of all changes from now on; return the head that they follow.

        Raises StoreError, and has then subscribed nobody.
        """
        async with self._reading:
            if self._paused:
                self._position = Revision((await self._store.log_head()).revision)
                self._paused = False
            await self._advance()
            self._subscribers.append(subscriber)
            self._wanted.set()
            return self._position

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Tell him no more. Without subscribers nothing is read."""
        self._subscribers.remove(subscriber)
        if not self._subscribers:
            self._paused = True
            self._wanted.clear()

    async def catch_up(self) -> None:
        """Tell of all that is committed now; StoreError if it cannot be read."""
        async with self._reading:
            await self._advance()

    async def follow(self) -> None:
        """Follow the log, for as long as the process lives."""
        loop = asyncio.get_running_loop()
        next_beat, failing = loop.time(), False
        while True:
            await self._wanted.wait()
            try:
                await self.catch_up()
                failing = False
            except StoreError as failure:
                if not failing:
                    _log.warning("log_not_read", failure=str(failure))
                failing = True
            if loop.time() >= next_beat:
                next_beat = loop.time() + BEAT_SECONDS
                for one in tuple(self._subscribers):
                    one.beat(self._position, self.as_of)
            with contextlib.suppress(StoreError):
                if failing:
                    await asyncio.sleep(RETRY_SECONDS)
                else:
                    await self._store.moved(max(next_beat - loop.time(), 0.0))

    async def _advance(self) -> None:
        """Read up to the head. For whoever holds the lock."""
        while not self._paused:
            tail = await self._store.read_changes(self._position, CHANGES_AT_ONCE)
            if tail.head < self._position:
                _log.error("log_lost_changes", told=self._position, head=tail.head)
                self._position = tail.head
                for one in tuple(self._subscribers):
                    one.lost(tail.head)
            if tail.changes:
                self._position = Revision(tail.changes[-1].revision)
                for one in tuple(self._subscribers):
                    self._tell(one, tail.changes)
            if self._position >= tail.head:
                self.as_of = max(self.as_of, tail.as_of)
                return
            await asyncio.sleep(0)  # many at once are not to keep everybody else waiting

    def _tell(self, subscriber: Subscriber, changes: Sequence[Change]) -> None:
        try:
            subscriber.changed(changes, self._position)
        except Exception:  # noqa: BLE001 - he must not go on as if nothing had been
            _log.exception("follower_failed", position=self._position)
            subscriber.lost(self._position)


@asynccontextmanager
async def following(store: Store) -> AsyncIterator[Feed]:
    """Give the feed of a store, for as long as the context lasts."""
    feed = Feed(store)
    task = asyncio.create_task(feed.follow())
    try:
        yield feed
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
