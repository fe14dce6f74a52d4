"""The open streams of both transports, and their end in a drain.

grpcio cannot end the stream of a client that has stopped reading: a status would wait behind the
message that it does not take. Such a stream is cut with the server, when all others are done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Final

from keyauthority_server.rpc_types import StreamMethod

STALLED_SECONDS: Final = 2.0  # a client that reads has taken the end of its stream long before
LINGER_SECONDS: Final = 0.5  # writing an answer takes grpcio less than 1 ms; starved, some more


class InFlight(AbstractContextManager[None]):
    """Counts the calls that are within this context."""

    def __init__(self) -> None:
        self._number = 0
        self.none = asyncio.Event()
        self.none.set()

    def __enter__(self) -> None:
        self._number += 1
        self.none.clear()

    def __exit__(self, *_: object) -> None:
        self._number -= 1
        if not self._number:
            self.none.set()

    async def answered(self) -> None:
        """Wait until there is none, and what was answered last is on its way."""
        await self.none.wait()
        await asyncio.sleep(LINGER_SECONDS)


class OpenStreams:
    """The open streams of these methods."""

    def __init__(self, methods: Iterable[StreamMethod]) -> None:
        self._methods = tuple(methods)
        self.in_flight = InFlight()
        """Entered by each stream while it is open."""

    async def end(self) -> bool:
        """End them, and wait for those that are read; False if some are not."""
        for method in self._methods:
            method.end()
        try:
            await asyncio.wait_for(self.in_flight.none.wait(), STALLED_SECONDS)
        except TimeoutError:
            return False
        return True
