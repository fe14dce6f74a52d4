"""An in-memory cache bounded by the weight of its values instead of their number.

A key may have a quarter of a megabyte of restrictions. With a bound on the number, a hundred
thousand such keys could fill the memory that is meant for as many usual ones.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from itertools import chain
from typing import Final, Generic, TypeVar

from keyauthority.model import Key, Project

USUAL_BYTES: Final = 2_000  # a record with a few permissions, addresses and labels; weighs 1
_TEXT_BYTES: Final = 57  # overhead of a text in a tuple (CPython, 64 bits)
_COMPILED_BYTES: Final = 230  # overhead of a compiled permission or restriction
_WIDE: Final = 3  # bytes of a character in a non-ASCII text, including its cached UTF-8

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


def weight_of(record: Key | Project | None) -> int:
    """Return the weight of a decoded record: 1, plus 1 for each 2,000 bytes of its lists.

    It includes the form into which `keyauthority.decision` compiles a key.
    """
    if record is None:
        return 1
    size = sum(map(_size, chain(record.labels.keys(), record.labels.values())))
    if isinstance(record, Key):
        only = record.restrictions
        size += sum(map(_size, record.operator_projects))
        compiled = [*record.permissions, *only.allowed_ips, *only.allowed_referrers]
        compiled += only.ios_bundle_ids
        for app in only.android_apps:
            compiled += (app.package, app.sha1)
        for target in only.api_targets:
            compiled += (target.service, *target.methods)
        size += sum(map(_size, compiled)) * 2 + len(compiled) * (_COMPILED_BYTES - _TEXT_BYTES)
    return 1 + size // USUAL_BYTES


def _size(text: str) -> int:
    return _TEXT_BYTES + (len(text) if text.isascii() else len(text) * _WIDE)
