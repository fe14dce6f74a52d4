"""Tasks beside the calls of a process: started with a context, cancelled and awaited at its end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Final

FLUSH_SECONDS: Final = 1.0  # bounds the bookkeeping that a killed process loses


@asynccontextmanager
async def running(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Run a task until the context ends."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def flushing(flush: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Call `flush`, which raises nothing, each second and once more when the context ends."""
    try:
        async with running(_repeat(flush)):
            yield
    finally:
        await flush()


async def _repeat(flush: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(FLUSH_SECONDS)
        await flush()
