"""An in-memory cache bounded by the weight of its values instead of their number.

A key may have a quarter of a megabyte of restrictions. With a bound on the number, a hundred
thousand such keys could fill the memory that is meant for as many usual ones.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class WeightedCache(Generic[K, V]):
    """Keeps values by name up to a total weight; evicts the oldest first."""

    def __init__(self, most: int, dropped: Callable[[V], None] | None = None) -> None:
        """`dropped` is called with each value that is evicted, replaced or dropped, not cleared."""
        self._most = most
        self._dropped = dropped
        self._values: OrderedDict[K, V] = OrderedDict()  # a dict finds its first item slowly
        self._heavy: dict[K, int] = {}  # the weights that are not 1
        self._weight = 0
        self.get = self._values.get
        """Return the value of this name, or None."""

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, name: K) -> bool:
        return name in self._values

    def keep(self, name: K, value: V, weight: int = 1) -> None:
        """Store a value as the newest, replacing that of the same name."""
        self.drop(name)
        while self._values and self._weight + weight > self._most:
            oldest, evicted = self._values.popitem(last=False)
            self._weight -= self._heavy.pop(oldest, 1)
            if self._dropped is not None:
                self._dropped(evicted)
        self._values[name] = value
        self._weight += weight
        if weight != 1:
            self._heavy[name] = weight

    def drop(self, name: K) -> bool:
        """Remove the value of this name; False without one."""
        if name not in self._values:
            return False
        removed = self._values.pop(name)
        self._weight -= self._heavy.pop(name, 1)
        if self._dropped is not None:
            self._dropped(removed)
        return True

    def clear(self) -> None:
        """Remove all values."""
        self._values.clear()
        self._heavy.clear()
        self._weight = 0
