"""The open streams of both transports, and their end in a drain.

grpcio cannot end the stream of a client that has stopped reading: a status would wait behind the
message that it does not take. Such a stream is cut with the server, when all others are done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final

import grpc.aio

from keyauthority_server.config import Listen, UnixPath
from keyauthority_server.rpc_types import Call, StreamMethod

STALLED_SECONDS: Final = 2.0  # a client that reads has taken the end of its stream long before
LINGER_SECONDS: Final = 0.5  # writing an answer takes grpcio less than 1 ms; starved, some more

_Context = grpc.aio.ServicerContext[Any, Any]


class Streams:
    """The streams that are open in this process."""

    def __init__(self) -> None:
        self._served: list[StreamMethod] = []
        self.inside = Inside()
        """What each of them is within while it is open."""

    def add(self, streaming: StreamMethod) -> None:
        """Have the streams of a method ended, too."""
        self._served.append(streaming)

    async def end(self) -> bool:
        """End them, and wait for those that are read; False if some are not."""
        for one in self._served:
            one.end()
        try:
            await asyncio.wait_for(self.inside.none.wait(), STALLED_SECONDS)
        except TimeoutError:
            return False
        return True


class Inside(AbstractContextManager[None]):
    """Counts the calls that are inside."""

    def __init__(self) -> None:
        self._inside = 0
        self.none = asyncio.Event()
        self.none.set()

    def __enter__(self) -> None:
        self._inside += 1
        self.none.clear()

    def __exit__(self, *_: object) -> None:
        self._inside -= 1
        if not self._inside:
            self.none.set()

    async def answered(self) -> None:
        """Wait until there is none, and what was answered last is on its way."""
        await self.none.wait()
        await asyncio.sleep(LINGER_SECONDS)


def from_behind(read: Callable[[_Context], Call], listen: Listen) -> Callable[[_Context], Call]:
    """Return `read` for calls that the native front passes on: their own peer is the front.

    It serves this machine only, whose processes may call from any address that the machine has. So
    the peer is the address that it has called; nothing that it sends counts.
    """
    peer = "unix:"
    if not isinstance(listen, UnixPath) and listen.is_local:
        peer = f"ipv6:[{listen.host}]:0" if ":" in listen.host else "ipv4:127.0.0.1:0"
    return lambda context: read(context)._replace(peer=peer)
