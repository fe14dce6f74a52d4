"""Open-loop load: calls that come at their times, whether those before were answered or not."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, NamedTuple

import grpc
import grpc.aio

from tests.service.callers import METHODS

Metadata = tuple[tuple[str, str], ...]


class Load(NamedTuple):
    """The results of the calls."""

    seconds: float
    """Until the last answer."""
    answered: int
    refused: Counter[str]
    """By the name of the status."""
    statuses: set[bytes]
    """The google.rpc.Status of each that was refused."""
    waits: list[float]
    """Seconds that each answer took, in ascending order."""

    @property
    def goodput(self) -> float:
        """Answers a second."""
        return self.answered / self.seconds


class Line:
    """Makes calls of one method with one body over some connections."""

    def __init__(self, address: str, method: str, metadata: Metadata, connections: int = 4) -> None:
        options = (("grpc.use_local_subchannel_pool", 1),)
        self._channels = [grpc.aio.insecure_channel(address, options) for _ in range(connections)]
        path = f"/{METHODS[method].containing_service.full_name}/{method}"
        self._calls: list[Any] = [channel.unary_unary(path) for channel in self._channels]
        self._metadata = metadata

    async def close(self) -> None:
        """Let go of the connections."""
        await asyncio.gather(*(channel.close() for channel in self._channels))

    async def call(self, body: bytes) -> bytes:
        """Make one call and return its answer."""
        answer: bytes = await self._calls[0](body, metadata=self._metadata, timeout=20)
        return answer

    async def offer(self, bodies: list[bytes], rate: float) -> Load:
        """Make a call of each body, `rate` a second, and wait for all that comes of them."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        refused: Counter[str] = Counter()
        statuses: set[bytes] = set()
        waits: list[float] = []

        async def one(number: int, body: bytes) -> None:
            await asyncio.sleep(started + number / rate - loop.time())
            called = loop.time()
            try:
                await self._calls[number % len(self._calls)](
                    body, metadata=self._metadata, timeout=20
                )
            except grpc.aio.AioRpcError as failure:
                refused[failure.code().name] += 1
                raw = dict(failure.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
                statuses.add(raw if isinstance(raw, bytes) else raw.encode("latin-1"))
            else:
                waits.append(loop.time() - called)

        await asyncio.gather(*(one(number, body) for number, body in enumerate(bodies)))
        return Load(loop.time() - started, len(waits), refused, statuses, sorted(waits))
