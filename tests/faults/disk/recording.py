"""Recorded file operations of all processes of a server, and the answers of its clients, in order.

All of them append to one file, an entry a write(2), so the order of entries is that in which
things happened.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from keyauthority_server.store.sqlite import rollback_guard
from keyauthority_server.store.types import LogHead
from tests.faults.disk.vfs import OK, Pass

WRITE: Final = "write"
TRUNCATE: Final = "truncate"
SYNC: Final = "sync"
"""Is about to begin: it covers all earlier operations."""
SYNCED: Final = "synced"
"""The sync of the same process and file that began before has ended."""
DELETE: Final = "delete"
TOLD: Final = "told"
"""A client has its answer: `offset` is the number of its line in the journal."""

_KINDS: Final = (WRITE, TRUNCATE, SYNC, SYNCED, DELETE, TOLD)
_HEADER: Final = struct.Struct("<BIQII")


class Entry(NamedTuple):
    """One thing that happened."""

    kind: str
    process: int
    name: str
    """The file's, without its folder."""
    offset: int
    """Of a write; the size, of a truncation."""
    data: bytes = b""


class Recorder:
    """A `vfs.Disk` that performs and records each operation."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def note(self, kind: str, name: str, offset: int = 0, data: bytes = b"") -> None:
        """Write an entry down."""
        text = name.encode()
        header = _HEADER.pack(_KINDS.index(kind), os.getpid(), offset, len(text), len(data))
        os.write(self._file, header + text + data)

    def write(self, path: Path, data: bytes, offset: int, go_on: Pass) -> int:
        """Write, and record the data."""
        self.note(WRITE, path.name, offset, data)
        return go_on()

    def truncate(self, path: Path, size: int, go_on: Pass) -> int:
        """Truncate, and say how far."""
        self.note(TRUNCATE, path.name, size)
        return go_on()

    def sync(self, path: Path, go_on: Pass) -> int:
        """Sync, and say when it began and ended."""
        self.note(SYNC, path.name)
        if (code := go_on()) == OK:
            self.note(SYNCED, path.name)
        return code

    def delete(self, path: Path, go_on: Pass) -> int:
        """Remove, and record the name."""
        self.note(DELETE, path.name)
        return go_on()

    def watch_heads(self) -> None:
        """Write down the heads that are noted beside a database, too."""
        save_head = rollback_guard.save_head

        def noted(file: Path, head: LogHead) -> None:
            save_head(file, head)
            self.note(WRITE, file.name, 0, file.read_bytes())

        rollback_guard.save_head = noted


def read(path: Path) -> Iterator[Entry]:
    """Give the entries of a recording."""
    with path.open("rb") as file:
        while header := file.read(_HEADER.size):
            kind, process, offset, name, data = _HEADER.unpack(header)
            yield Entry(_KINDS[kind], process, file.read(name).decode(), offset, file.read(data))
