"""Calls with different messages, which h2load cannot make, from a client in Python.

The client uses part of the measured time; the report notes that beside the figures and lists an
empty call of the same client.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import grpc.aio

from benchmarks.run import Run, on_core


def rate(
    run: Run, address: str, path: str, bodies: Sequence[bytes], operator_key: str, callers: int
) -> float:
    """Make a call for each body, so many at once, from the load's core; return calls a second."""
    with on_core(run.load_core):
        return asyncio.run(_rate(address, path, bodies, operator_key, callers))


async def _rate(
    address: str, path: str, bodies: Sequence[bytes], operator_key: str, callers: int
) -> float:
    metadata = (("x-auth-token", operator_key),)
    left = iter(bodies)
    async with grpc.aio.insecure_channel(address) as channel:
        call: Any = channel.unary_unary(path)
        await channel.channel_ready()

        async def caller() -> None:
            for body in left:
                await call(body, metadata=metadata)

        begun = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(callers)))
        return len(bodies) / (time.perf_counter() - begun)
