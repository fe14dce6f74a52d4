"""Lets operations on files fail while an order lies there, as a device or a full disk does."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from tests.faults.disk.vfs import Pass

# Result codes of SQLite's own VFS for each errno: https://www.sqlite.org/rescode.html
IOERR_WRITE: Final = 778
IOERR_FSYNC: Final = 1034
IOERR_TRUNCATE: Final = 1546
FULL: Final = 13
STOP_SECONDS: Final = 0.1  # until the signal, which another thread may take, has stopped this one


@dataclass(frozen=True)
class Order:
    """The operation to fail, and the failure."""

    operation: str
    """write, truncate or sync."""
    code: int
    """The result code for SQLite."""
    file: str = "keyauthority.db-wal"
    short: bool = False
    """Of a write: half of it is done."""
    stop: bool = False
    """Of a write: it is done, once the process, which stops itself before it, is continued."""


def met(path: Path) -> Path:
    """Return the file that is there once something has failed by the order at `path`."""
    return path.with_suffix(".met")


@contextmanager
def ordered(path: Path, order: Order) -> Iterator[None]:
    """Let operations fail for the block, in all processes that look at `path`."""
    give(path, order)
    try:
        yield
    finally:
        path.unlink()


def give(path: Path, order: Order) -> None:
    """Give an order to all processes that look at `path`."""
    met(path).unlink(missing_ok=True)
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(asdict(order)))
    draft.replace(path)


class Failing:
    """A `vfs.Disk` that performs each operation unless ordered to fail it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, path: Path, data: bytes, offset: int, go_on: Pass) -> int:
        """Write, or fail; a short write leaves half of it in the file."""
        order = self._order("write", path)
        if order is None:
            return go_on()
        if order.stop:
            self._path.rename(met(self._path))  # for one process only
            os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(STOP_SECONDS)
            return go_on()
        if order.short:
            file = os.open(path, os.O_WRONLY)
            os.pwrite(file, data[: len(data) // 2], offset)
            # Not closed: that would drop the locks that SQLite has on it in this process.
        return order.code

    def truncate(self, path: Path, size: int, go_on: Pass) -> int:
        """Truncate, or fail."""
        order = self._order("truncate", path)
        return go_on() if order is None else order.code

    def sync(self, path: Path, go_on: Pass) -> int:
        """Sync, or fail; unsynced data may or may not have reached the disk."""
        order = self._order("sync", path)
        return go_on() if order is None else order.code

    def delete(self, path: Path, go_on: Pass) -> int:
        """Remove."""
        return go_on()

    def _order(self, operation: str, path: Path) -> Order | None:
        try:
            order = Order(**json.loads(self._path.read_text()))
        except FileNotFoundError:
            return None
        if (order.operation, order.file) != (operation, path.name):
            return None
        if not order.stop:
            met(self._path).touch()
        return order
