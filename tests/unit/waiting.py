"""Waits of tests that share an event loop with the code under test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

PATIENCE: Final = 20.0  # seconds, on a machine that is busy


async def until(holds: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 - of many kinds
            await asyncio.sleep(0.005)


async def settle() -> None:
    """Let all that can go on without the world outside do so."""
    for _ in range(5):
        await asyncio.sleep(0)
