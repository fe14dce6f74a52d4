"""Limit on the bytes that all watchers together hold while their messages are written."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class ByteBudget:
    """Grants bytes in first-come order. Used in the event loop only."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self.held = 0
        """Bytes held now."""

    @asynccontextmanager
    async def hold(self, size: int) -> AsyncIterator[None]:
        """Hold `size` bytes, at most the total, for the block; wait for room first."""
        size = min(size, self._total)
        if self._waiting or self.held + size > self._total:
            granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((size, granted))
            try:
                await granted
            except asyncio.CancelledError:
                if granted.done() and not granted.cancelled():
                    self._release(size)
                raise
        else:
            self.held += size
        try:
            yield
        finally:
            self._release(size)

    def _release(self, size: int) -> None:
        self.held -= size
        while self._waiting:
            requested, granted = self._waiting[0]
            if not granted.done():
                if self.held + requested > self._total:
                    return
                self.held += requested
                granted.set_result(None)
            self._waiting.popleft()
