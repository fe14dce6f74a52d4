"""What is kept in memory to be found again, and how much of it: counted by weight, not by number.

A key may have a quarter of a megabyte of restrictions. Where a hundred thousand usual ones fit, who
makes keys could else fill all memory with a hundred thousand of those.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from itertools import chain
from typing import Final, Generic, TypeVar

from keyauthority.model import Key, Project

USUAL_BYTES: Final = 2_000  # of a record with a few permissions, addresses and labels; weighs 1
_TEXT_BYTES: Final = 57  # of a text in a tuple, beside its characters (CPython, 64 bits)
_COMPILED_BYTES: Final = 230  # of a permission's or restriction's compiled form, likewise
_WIDE: Final = 3  # bytes of a character in a text that is not ASCII, of UTF-8 in it too

K = TypeVar("K")
V = TypeVar("V")


class WeightedCache(Generic[K, V]):
    """Keeps values by name, up to a weight in all; those kept longest make room."""

    def __init__(self, most: int, dropped: Callable[[V], None] | None = None) -> None:
        """`dropped` is called with each value that is kept no longer, unless all are cleared."""
        self._most = most
        self._dropped = dropped
        self._kept: OrderedDict[K, V] = OrderedDict()  # a dict is slow to find its first
        self._heavy: dict[K, int] = {}  # the weights that are not 1
        self._weight = 0
        self.get = self._kept.get
        """The value of this name, None if none is kept."""

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, name: K) -> bool:
        return name in self._kept

    def keep(self, name: K, value: V, weight: int = 1) -> None:
        """Keep a value as the newest, in the place of the one that there is of this name."""
        self.drop(name)
        while self._kept and self._weight + weight > self._most:
            oldest, forgotten = self._kept.popitem(last=False)
            self._weight -= self._heavy.pop(oldest, 1)
            if self._dropped is not None:
                self._dropped(forgotten)
        self._kept[name] = value
        self._weight += weight
        if weight != 1:
            self._heavy[name] = weight

    def drop(self, name: K) -> None:
        """Keep nothing of this name."""
        if name in self._kept:
            forgotten = self._kept.pop(name)
            self._weight -= self._heavy.pop(name, 1)
            if self._dropped is not None:
                self._dropped(forgotten)

    def clear(self) -> None:
        """Keep nothing."""
        self._kept.clear()
        self._heavy.clear()
        self._weight = 0


def weight_of(record: Key | Project | None) -> int:
    """Return what a decoded record weighs: 1, and 1 more for each 2,000 bytes of its lists.

    The form that `keyauthority.decision` compiles a key into is part of it.
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
