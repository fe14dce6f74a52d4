"""Shares the event loop between calls with many items and all other calls.

A call runs without interruption for one slice. For each later slice it takes a lock that all such
calls share, and yields to the loop after it: however many large calls run, another call waits for
one slice of one of them.
"""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Final, Self

SLICE_SECONDS: Final = 0.005


class TimeSlices:
    """The lock that large calls share, in first-come order. One for each event loop."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    def begin(self, *, queued: bool = False) -> Slices:
        """Return the slices of one call; enter them with `with`.

        A `queued` call has no free first slice: its first `pause` waits for the lock.
        """
        return Slices(self._lock, 0.0 if queued else SLICE_SECONDS)


class Slices:
    """The slices of one call."""

    def __init__(self, lock: asyncio.Lock, first_seconds: float) -> None:
        self._lock = lock
        self._first_seconds = first_seconds
        self._locked = False
        self._end = 0.0

    def __enter__(self) -> Self:
        self._end = time.monotonic() + self._first_seconds
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._release()

    def are_over(self) -> bool:
        """True if `pause` would wait; asked first, it saves a coroutine for each item."""
        return time.monotonic() >= self._end

    async def pause(self) -> None:
        """Let other calls run if the slice is over. Await it between two items."""
        if not self.are_over():
            return
        if self._locked:
            await asyncio.sleep(0)  # before the next call takes the lock: one slice a loop turn
            self._release()
        await self._lock.acquire()
        self._locked = True
        await asyncio.sleep(0)
        self._end = time.monotonic() + SLICE_SECONDS

    def _release(self) -> None:
        if self._locked:
            self._locked = False
            self._lock.release()
