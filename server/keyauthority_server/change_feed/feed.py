"""Follows the log of changes: reads each change once and delivers it to all subscribers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final, Protocol

import structlog

from keyauthority.model import Change, Revision
from keyauthority_server.background import running
from keyauthority_server.store.interface import Store, StoreError

BEAT_SECONDS: Final = 0.4  # watchers are promised a heartbeat each 0.5 s; a loop may be late
CHANGES_AT_ONCE: Final = 64  # reading them takes some 3 ms of the event loop
RETRY_SECONDS: Final = 0.05  # after a failed read

_log = structlog.get_logger(__name__)


class Subscriber(Protocol):
    """Receives changes in the event loop. Its methods must not block and must not raise."""

    def changed(self, changes: Sequence[Change], position: Revision) -> None:
        """Take the changes after the last delivered position, in order, up to `position`."""
        ...

    def beat(self, position: Revision, as_of: float) -> None:
        """Note that all changes committed before `as_of` were delivered, up to `position`.

        Called each `BEAT_SECONDS`. While the store cannot be read, `as_of` stays unchanged: see
        `ChangePage`.
        """
        ...

    def lost(self, position: Revision) -> None:
        """Discard all delivered changes: the log was truncated. The next follow `position`.

        This happens after a failover to a replica that lacked the newest changes.
        """
        ...


class Feed:
    """Follows the log while it has subscribers. Create it with `following`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._subscribers: list[Subscriber] = []
        self._subscribed = asyncio.Event()
        self._reading = asyncio.Lock()
        self._position = Revision(0)
        self.as_of = float("-inf")
        """Every change committed before this monotonic time was delivered; see `ChangePage`."""
        self._paused = True

    async def subscribe(self, subscriber: Subscriber) -> Revision:
        """Deliver all changes from now on to the subscriber; return the head that they follow.

        On StoreError the subscriber is not added.
        """
        async with self._reading:
            if self._paused:
                self._position = Revision((await self._store.log_head()).revision)
                self._paused = False
            await self._advance()
            self._subscribers.append(subscriber)
            self._subscribed.set()
            return self._position

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Stop deliveries to the subscriber. Without subscribers the log is not read."""
        self._subscribers.remove(subscriber)
        if not self._subscribers:
            self._paused = True
            self._subscribed.clear()

    async def catch_up(self) -> None:
        """Deliver all changes committed so far. Raises StoreError if the log cannot be read."""
        async with self._reading:
            await self._advance()

    def committed(self, head: Revision, changes: Sequence[Change]) -> bool:
        """Deliver changes committed after `head`; False if the log must be read for others."""
        if self._paused or head != self._position:
            return False
        self._deliver_all(changes)
        return True

    async def follow(self) -> None:
        """Follow the log until cancelled."""
        loop = asyncio.get_running_loop()
        next_beat, failing = loop.time(), False
        while True:
            await self._subscribed.wait()
            try:
                await self.catch_up()
                failing = False
            except StoreError as failure:
                if not failing:
                    _log.warning("log_not_read", failure=str(failure))
                failing = True
            if loop.time() >= next_beat:
                next_beat = loop.time() + BEAT_SECONDS
                for subscriber in tuple(self._subscribers):
                    subscriber.beat(self._position, self.as_of)
            with contextlib.suppress(StoreError):
                if failing:
                    await asyncio.sleep(RETRY_SECONDS)
                else:
                    await self._store.wait_for_changes(max(next_beat - loop.time(), 0.0))

    async def _advance(self) -> None:
        """Read and deliver up to the head. The caller holds the lock."""
        while not self._paused:
            position = self._position
            tail = await self._store.read_changes(position, CHANGES_AT_ONCE)
            if tail.head < position:
                _log.error("log_lost_changes", delivered=self._position, head=tail.head)
                self._position = tail.head
                for subscriber in tuple(self._subscribers):
                    subscriber.lost(tail.head)
            # `committed` may have delivered some of them meanwhile.
            if changes := [change for change in tail.changes if change.revision > self._position]:
                self._deliver_all(changes)
            if self._position >= tail.head:
                self.as_of = max(self.as_of, tail.as_of)
                return
            await asyncio.sleep(0)  # let other tasks run between pages

    def _deliver_all(self, changes: Sequence[Change]) -> None:
        self._position = Revision(changes[-1].revision)
        for subscriber in tuple(self._subscribers):
            self._deliver(subscriber, changes)

    def _deliver(self, subscriber: Subscriber, changes: Sequence[Change]) -> None:
        try:
            subscriber.changed(changes, self._position)
        except Exception:  # noqa: BLE001 - its state is unknown: it must discard it
            _log.exception("subscriber_failed", position=self._position)
            subscriber.lost(self._position)


@asynccontextmanager
async def following(store: Store) -> AsyncIterator[Feed]:
    """Yield the running feed of a store."""
    feed = Feed(store)
    async with running(feed.follow()):
        yield feed
