"""Bytes that all watchers together may hold while they are written to."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class ByteBudget:
    """Lets watchers hold bytes, and the next in line wait. Used in the event loop only."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self.stored = 0
        """Bytes that are held now."""

    @asynccontextmanager
    async def hold(self, size: int) -> AsyncIterator[None]:
        """Hold bytes for the block, once there is room for them; at most the total counts."""
        size = min(size, self._total)
        if self._waiting or self.stored + size > self._total:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((size, turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._release(size)
                raise
        else:
            self.stored += size
        try:
            yield
        finally:
            self._release(size)

    def _release(self, size: int) -> None:
        self.stored -= size
        while self._waiting:
            wanted, turn = self._waiting[0]
            if not turn.done():
                if self.stored + wanted > self._total:
                    return
                self.stored += wanted
                turn.set_result(None)
            self._waiting.popleft()
