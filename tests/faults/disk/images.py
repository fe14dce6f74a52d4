"""Files after a loss of power: all synced data, and any part of the rest.

Of a file's writes and truncations since its last sync some are lost, some are there, some are torn
between sectors, and they need not be there in the order in which they were made. A file that was
never synced may be missing, and a removal may not have happened.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.faults.disk.recording import DELETE, SYNC, SYNCED, TOLD, TRUNCATE, WRITE, Entry

SECTOR: Final = 512  # bytes: a disk writes a sector whole or not at all
WAYS: Final = ("lost", "kept", "first", "some", "torn")


@dataclass
class _File:
    """A file as last synced, and the operations on it since."""

    durable: bytearray | None = None
    pending: list[Entry] = field(default_factory=list)
    beginning: dict[int, int] = field(default_factory=dict)
    """By process that syncs: how much was pending when it began."""

    def happened(self, entry: Entry) -> None:
        """Take account of an entry."""
        if entry.kind in (WRITE, TRUNCATE, DELETE):
            self.pending.append(entry)
        elif entry.kind == SYNC:
            self.beginning[entry.process] = len(self.pending)
        elif entry.kind == SYNCED:
            self.settle(self.beginning.pop(entry.process, 0))

    def settle(self, number: int) -> None:
        """The first operations up to this count are durable."""
        for entry in self.pending[:number]:
            self.durable = _applied(self.durable, entry)
        del self.pending[:number]
        for process, begun in self.beginning.items():
            self.beginning[process] = max(0, begun - number)

    def image(self, drawn: random.Random) -> bytes | None:
        """Return one possible content after a loss of power."""
        way = drawn.choice(WAYS)
        if way == "lost" or not self.pending:
            done: Iterable[Entry] = ()
        elif way == "kept":
            done = self.pending
        elif way == "first":
            done = self.pending[: drawn.randrange(len(self.pending) + 1)]
        else:
            parts = [part for one in self.pending for part in _parts(one, way == "torn")]
            done = [one for one in parts if drawn.random() < 0.5]
            drawn.shuffle(done)
        left = None if self.durable is None else bytearray(self.durable)
        for entry in done:
            left = _applied(left, entry)
        return None if left is None else bytes(left)


def _parts(entry: Entry, torn: bool) -> Iterator[Entry]:
    """Give the sectors of a write, each for itself, if it is to be torn."""
    if not torn or entry.kind != WRITE:
        yield entry
        return
    start, end = entry.offset, entry.offset + len(entry.data)
    while start < end:
        stop = min(end, (start // SECTOR + 1) * SECTOR)
        data = entry.data[start - entry.offset : stop - entry.offset]
        yield entry._replace(offset=start, data=data)
        start = stop


def _applied(content: bytearray | None, entry: Entry) -> bytearray | None:
    if entry.kind == DELETE:
        return None
    content = bytearray() if content is None else content
    if entry.kind == TRUNCATE:
        del content[entry.offset :]
        content.extend(bytes(entry.offset - len(content)))
        return content
    content.extend(bytes(max(0, entry.offset - len(content))))
    content[entry.offset : entry.offset + len(entry.data)] = entry.data
    return content


class Disk:
    """The files of a folder, as a recording tells of them."""

    def __init__(self) -> None:
        self._files: dict[str, _File] = {}

    def happened(self, entry: Entry) -> None:
        """Take account of an entry."""
        if entry.kind != TOLD:
            self._files.setdefault(entry.name, _File()).happened(entry)

    def settle(self) -> None:
        """Let everything be durable, as `sync` does."""
        for file in self._files.values():
            file.settle(len(file.pending))

    @property
    def pending(self) -> int:
        """How many operations a loss of power could undo."""
        return sum(len(one.pending) for one in self._files.values())

    def lose_power(self, folder: Path, drawn: random.Random) -> None:
        """Make in `folder` the files that are left."""
        for name, file in self._files.items():
            path = folder / name
            if (left := file.image(drawn)) is not None:
                path.write_bytes(left)
                path.chmod(0o600)
            else:
                path.unlink(missing_ok=True)
