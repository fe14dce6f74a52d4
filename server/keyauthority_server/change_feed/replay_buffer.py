"""The newest changes, packed: each watcher reads them from where he is, at his own pace.

They are kept once for all, however many watch. A watcher has nothing but his place, so one that
stops reading costs the others nothing; one who is further behind than what is kept has to begin
anew. His buffer is what lies before him, and it is bounded by changes and by bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from keyauthority.model import Change, Revision
from keyauthority_server.change_feed.encoding import Packed, pack
from keyauthority_server.change_feed.feed import Feed

CHANGES_MAX: Final = 4_096  # a second of the fastest writing
BYTES_MAX: Final = 16 * 1024 * 1024  # at least the last change is kept, of some 1 MB at most


class Recent:
    """What was committed lately, for all watchers of this process. See `Subscriber`."""

    def __init__(
        self, feed: Feed, changes_max: int = CHANGES_MAX, bytes_max: int = BYTES_MAX
    ) -> None:
        self._feed = feed
        self._changes_max = changes_max
        self._bytes_max = bytes_max
        self._kept: list[Packed] = []
        self._bytes = 0
        self._waiting: set[asyncio.Future[None]] = set()
        self._opening = asyncio.Lock()
        self._following = False
        self.watchers = 0
        """How many watch now."""
        self.position = Revision(0)
        """What is kept reaches up to here."""
        self.beats = 0
        """Grows with each heartbeat."""
        self.losses = 0
        """Grows when the log has lost changes: then what was told before may never have been."""
        self.ended = False
        """True once the watchers have to go."""

    @property
    def as_of(self) -> float:
        """No change that was committed before this moment is missing; see `values.Tail`."""
        return self._feed.as_of

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Keep what is committed while the context lasts, and be at the head when it begins."""
        async with self._opening:
            self.watchers += 1  # before anything is awaited: the last one to go ends the following
            try:
                if self._following:
                    await self._feed.catch_up()
                else:
                    self._kept, self._bytes = [], 0
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

    def since(self, place: Revision) -> Sequence[Packed] | None:
        """Return what is behind a place, None if that is not kept any more."""
        behind = self.position - place
        if not 0 <= behind <= len(self._kept):
            return None
        return self._kept[len(self._kept) - behind :]

    async def news(self, place: Revision, beats: int) -> None:
        """Wait until there is more behind a place, or another heartbeat, or all has to end."""
        while self.position == place and self.beats == beats and not self.ended:
            waiting = asyncio.get_running_loop().create_future()
            self._waiting.add(waiting)
            try:
                await waiting
            finally:
                self._waiting.discard(waiting)

    def end(self) -> None:
        """Let the watchers go."""
        self.ended = True
        self._wake()

    def changed(self, changes: Sequence[Change], position: Revision) -> None:
        """Keep the changes, and let go of the oldest where there are too many."""
        packed = [pack(one) for one in changes]
        self._kept += packed
        self._bytes += sum(len(one.body) for one in packed)
        self.position = position
        excess = max(len(self._kept) - self._changes_max, 0)
        dropped = sum(len(one.body) for one in self._kept[:excess])
        while self._bytes - dropped > self._bytes_max and excess < len(self._kept) - 1:
            dropped += len(self._kept[excess].body)
            excess += 1
        del self._kept[:excess]
        self._bytes -= dropped
        self._wake()

    def beat(self, position: Revision, as_of: float) -> None:
        """Let each watcher say that he lives."""
        self.beats += 1
        self._wake()

    def lost(self, position: Revision) -> None:
        """Forget everything."""
        self._kept, self._bytes, self.position = [], 0, position
        self.losses += 1
        self._wake()

    def _wake(self) -> None:
        for one in self._waiting:
            if not one.done():
                one.set_result(None)
