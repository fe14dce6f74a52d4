"""Open calls of one class: a total, and a share that one peer may have of it."""

from __future__ import annotations

from collections.abc import Hashable


class OpenCalls:
    """Counts the open calls of one class. Used in the event loop only."""

    __slots__ = ("_by_peer", "_per_peer", "_total", "open")

    def __init__(self, total: int, per_peer: int) -> None:
        self._total = total
        self._per_peer = per_peer
        self._by_peer: dict[Hashable, int] = {}
        self.open = 0
        """Calls that are open now."""

    def enter(self, peer: Hashable) -> bool:
        """Count a call, which must `leave`; False if the class or the peer has no room for it."""
        number = self._by_peer.get(peer, 0)
        if number >= self._per_peer or self.open >= self._total:
            return False
        self._by_peer[peer] = number + 1
        self.open += 1
        return True

    def leave(self, peer: Hashable) -> None:
        """Count a call less."""
        number = self._by_peer[peer] - 1
        if number:
            self._by_peer[peer] = number
        else:
            del self._by_peer[peer]
        self.open -= 1
