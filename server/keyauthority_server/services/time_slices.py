"""Shares the event loop between a call that works on many items and all other calls.

A call works without interruption for one slice. Each slice after the first needs the turn that all
such calls share, and is followed by a turn of the loop: however many large calls there are, another
call waits for one slice of one of them.
"""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Final, Self

SLICE_SECONDS: Final = 0.005


class TimeSlices:
    """The turn that large calls share, in order of their asking. One for each event loop."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    def begin(self) -> Slices:
        """Return the slices of one call, to be entered with `with`."""
        return Slices(self._turn)


class Slices:
    """The slices of one call."""

    def __init__(self, turn: asyncio.Lock) -> None:
        self._turn = turn
        self._holds = False
        self._end = 0.0

    def __enter__(self) -> Self:
        self._end = time.monotonic() + SLICE_SECONDS
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._give_up()

    async def pause(self) -> None:
        """Let others run if the slice is over. To be awaited between two items."""
        if time.monotonic() < self._end:
            return
        if self._holds:
            await asyncio.sleep(0)  # before the next in line works: one slice in a turn of the loop
            self._give_up()
        await self._turn.acquire()
        self._holds = True
        await asyncio.sleep(0)
        self._end = time.monotonic() + SLICE_SECONDS

    def _give_up(self) -> None:
        if self._holds:
            self._holds = False
            self._turn.release()
