"""The newest changes, encoded, from which each watcher reads at its own pace.

The buffer is shared by all watchers and bounded by changes and by bytes. A watcher keeps only its
position, so a watcher that stops reading costs the others nothing; one whose position has left the
buffer must take a new snapshot.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from keyauthority.model import Change, Revision
from keyauthority_server.change_feed.encoding import EncodedChange, encode_change
from keyauthority_server.change_feed.feed import Feed

CHANGES_MAX: Final = 4_096  # a second of the fastest writing
BYTES_MAX: Final = 16 * 1024 * 1024  # the last change, of at most some 1 MB, is always kept


class ReplayBuffer:
    """The newest committed changes, for all watchers of this process; a `Subscriber`."""

    def __init__(
        self, feed: Feed, changes_max: int = CHANGES_MAX, bytes_max: int = BYTES_MAX
    ) -> None:
        self._feed = feed
        self._changes_max = changes_max
        self._bytes_max = bytes_max
        self._changes: list[EncodedChange] = []
        self._bytes = 0
        self._waiting: set[asyncio.Future[None]] = set()
        self._opening = asyncio.Lock()
        self._following = False
        self.watchers = 0
        """The number of watchers now."""
        self.position = Revision(0)
        """The revision of the newest change in the buffer."""
        self.heartbeats = 0
        """The number of heartbeats so far."""
        self.truncations = 0
        """Grows when the log loses changes: then delivered changes may never have happened."""
        self.ended = False
        """True once the watchers must end."""

    @property
    def as_of(self) -> float:
        """Every change committed before this monotonic time is in; see `ChangePage`."""
        return self._feed.as_of

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Buffer changes while the context lasts; the buffer is at the head when it begins."""
        async with self._opening:
            self.watchers += 1  # before the first await: the last watcher to leave unsubscribes
            try:
                if self._following:
                    await self._feed.catch_up()
                else:
                    self._changes, self._bytes = [], 0
                    self.position = await self._feed.subscribe(self)
                    self._following = True
            except BaseException:
                self._leave()
                raise
        try:
            yield
        finally:
            self._leave()

    def _leave(self) -> None:
        self.watchers -= 1
        if self._following and not self.watchers:
            self._following = False
            self._feed.unsubscribe(self)

    def since(self, position: Revision) -> Sequence[EncodedChange] | None:
        """Return the changes after a position; None if some have left the buffer."""
        count = self.position - position
        if not 0 <= count <= len(self._changes):
            return None
        return self._changes[len(self._changes) - count :]

    async def wait(self, position: Revision, heartbeats: int) -> None:
        """Wait for a change after `position`, another heartbeat, or the end."""
        while self.position == position and self.heartbeats == heartbeats and not self.ended:
            waiting = asyncio.get_running_loop().create_future()
            self._waiting.add(waiting)
            try:
                await waiting
            finally:
                self._waiting.discard(waiting)

    def end(self) -> None:
        """End all watchers."""
        self.ended = True
        self._wake()

    def changed(self, changes: Sequence[Change], position: Revision) -> None:
        """Append the changes, and drop the oldest beyond the bounds."""
        encoded = [encode_change(change) for change in changes]
        self._changes += encoded
        self._bytes += sum(len(change.body) for change in encoded)
        self.position = position
        excess = max(len(self._changes) - self._changes_max, 0)
        dropped = sum(len(change.body) for change in self._changes[:excess])
        while self._bytes - dropped > self._bytes_max and excess < len(self._changes) - 1:
            dropped += len(self._changes[excess].body)
            excess += 1
        del self._changes[:excess]
        self._bytes -= dropped
        self._wake()

    def beat(self, position: Revision, as_of: float) -> None:
        """Wake each watcher to send a heartbeat."""
        self.heartbeats += 1
        self._wake()

    def lost(self, position: Revision) -> None:
        """Discard all changes."""
        self._changes, self._bytes, self.position = [], 0, position
        self.truncations += 1
        self._wake()

    def _wake(self) -> None:
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)
