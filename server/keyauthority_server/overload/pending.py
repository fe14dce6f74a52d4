"""Open calls whose message has not arrived.

An honest client sends both at once, so the oldest open calls are the suspect ones. Above the limit,
the oldest call of the same peer is ended: a flood ends its own calls, and no other peer is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable

from keyauthority_server.rpc_types import RpcError

End = Callable[[RpcError], None]


class Pending:
    """A call whose message has not come."""

    __slots__ = ("deadline", "end", "peer")

    def __init__(self, peer: Hashable, deadline: float, end: End) -> None:
        self.peer = peer
        self.deadline = deadline
        self.end = end


class PendingMessages:
    """The calls whose message has not come, the oldest first. Used in the event loop only."""

    def __init__(
        self,
        total: int,
        per_peer: int,
        seconds: float,
        crowded: Callable[[], RpcError],
        late: Callable[[], RpcError],
    ) -> None:
        """`crowded` and `late` make the error of a call ended for others, or for its age."""
        self._total = total
        self._per_peer = per_peer
        self._seconds = seconds
        self._crowded = crowded
        self._late = late
        self._all: dict[Pending, None] = {}
        self._by_peer: dict[Hashable, dict[Pending, None]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._all)

    def enter(self, peer: Hashable, end: End) -> Pending:
        """Add a call, which must `leave`. `end` ends it with a refusal."""
        loop = asyncio.get_running_loop()
        pending = Pending(peer, loop.time() + self._seconds, end)
        of_peer = self._by_peer.setdefault(peer, {})
        if len(of_peer) >= self._per_peer:
            self._end(next(iter(of_peer)), self._crowded)
        elif len(self._all) >= self._total:
            self._end(next(iter(self._all)), self._crowded)
        of_peer = self._by_peer.setdefault(peer, {})  # the end may have taken the last away
        self._all[pending] = of_peer[pending] = None
        if self._timer is None:
            self._timer = loop.call_at(pending.deadline, self._end_late)
        return pending

    def leave(self, pending: Pending) -> None:
        """Remove a call: its message has come, or never will."""
        if pending in self._all:
            del self._all[pending]
            of_peer = self._by_peer[pending.peer]
            del of_peer[pending]
            if not of_peer:
                del self._by_peer[pending.peer]

    def _end(self, pending: Pending, why: Callable[[], RpcError]) -> None:
        self.leave(pending)
        pending.end(why())

    def _end_late(self) -> None:
        """End the calls whose time is up: one timer for all, since most leave long before."""
        loop, self._timer = asyncio.get_running_loop(), None
        while self._all:
            oldest = next(iter(self._all))
            if oldest.deadline > loop.time():
                self._timer = loop.call_at(oldest.deadline, self._end_late)
                return
            self._end(oldest, self._late)
