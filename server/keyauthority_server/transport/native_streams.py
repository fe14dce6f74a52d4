"""Streams on the native front, sent only as fast as the client reads.

The front queues one message of a stream and writes another: it refuses a third until the client has
read. An unread stream holds two messages, independent of its connection's windows.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager, aclosing
from typing import Any, Final

from pygrpc_native import STREAM_FULL, STREAM_SENT

from keyauthority_server.overload.errors import shutting_down, unread
from keyauthority_server.transport import limits

WAIT_MIN_SECONDS: Final = 0.001  # for a client to read, before the next try; doubled each time
WAIT_MAX_SECONDS: Final = 0.25  # of 5,000 stalled streams: 20,000 tries a second, for 10 seconds


class NativeStreams:
    """The streams that are open on one front. Used in the event loop only."""

    def __init__(
        self,
        front: Any,
        fail: Callable[[int, Exception], None],
        in_flight: AbstractContextManager[None],
    ) -> None:
        """`fail` ends a call with an error; each stream is within `in_flight` while it is open."""
        self._front = front
        self._fail = fail
        self._in_flight = in_flight
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def begin(
        self, call_id: int, messages: AsyncGenerator[bytes], ended: Callable[[], None] | None
    ) -> None:
        """Send the messages of a call, until they or the client end; then call `ended`."""
        task = asyncio.get_running_loop().create_task(self._follow(call_id, messages))
        if ended is not None:
            task.add_done_callback(lambda _: ended())
        self._tasks[call_id] = task

    def find(self, call_id: int) -> asyncio.Task[None] | None:
        """Return the task of an open stream, to be cancelled when its client has gone."""
        return self._tasks.get(call_id)

    def cancel(self) -> None:
        """End all streams; those left are unread."""
        for task in self._tasks.values():
            task.cancel()

    async def _follow(self, call_id: int, messages: AsyncGenerator[bytes]) -> None:
        try:
            with self._in_flight:
                async with aclosing(messages):
                    async for message in messages:
                        if not await self._send(call_id, message):
                            return
                self._front.stream_end(call_id)
        except asyncio.CancelledError:
            self._fail(call_id, shutting_down())
        except Exception as failure:  # noqa: BLE001 - a fault in one call ends no other
            self._fail(call_id, failure)
        finally:
            del self._tasks[call_id]

    async def _send(self, call_id: int, message: bytes) -> bool:
        """Hand a message over once there is room; False if the client has gone.

        OVERLOADED for a client that reads nothing for `limits.UNREAD_SECONDS`.
        """
        state = self._front.stream_try_send(call_id, message)
        if state == STREAM_FULL:
            now = asyncio.get_running_loop().time
            end, wait = now() + limits.UNREAD_SECONDS, WAIT_MIN_SECONDS
            while state == STREAM_FULL:
                if now() > end:
                    raise unread()
                await asyncio.sleep(wait)
                wait = min(2 * wait, WAIT_MAX_SECONDS)
                state = self._front.stream_try_send(call_id, message)
        return bool(state == STREAM_SENT)
