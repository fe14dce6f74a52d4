"""A counted resource, such as the open calls of one class: a total, and a peer's share of it."""

from __future__ import annotations

from collections.abc import Hashable


class OpenCalls:
    """Counts calls, connections or bytes. Used in the event loop only."""

    __slots__ = ("_by_peer", "_per_peer", "_total", "open")

    def __init__(self, total: int, per_peer: int) -> None:
        self._total = total
        self._per_peer = per_peer
        self._by_peer: dict[Hashable, int] = {}
        self.open = 0
        """The number in use."""

    def enter(self, peer: Hashable, number: int = 1) -> bool:
        """Add to the number, until `leave`; False if the total or the peer has no room."""
        of_peer = self._by_peer.get(peer, 0) + number
        if of_peer > self._per_peer or self.open + number > self._total:
            return False
        self._by_peer[peer] = of_peer
        self.open += number
        return True

    def leave(self, peer: Hashable, number: int = 1) -> None:
        """Subtract what `enter` added."""
        left = self._by_peer[peer] - number
        if left:
            self._by_peer[peer] = left
        else:
            del self._by_peer[peer]
        self.open -= number
