"""The queue of writers of several processes: two lock files next to the database.

`busy_timeout` alone lets one process starve another for seconds. With the gate, a writer that has
just finished cannot take the lock again before a waiting one.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final, Self

from keyauthority_server.private_files import NO_LOCKS, open_private
from keyauthority_server.store.interface import StoreUnusable

_OPEN: Final = os.O_RDWR | os.O_CREAT
LOCKS: Final = (".gate", ".lock")
"""Suffixes of the names of a database's lock files."""


class FairFileLock:
    """A lock for one writer of a database at a time, over all processes, in order of arrival.

    Entering blocks until the lock is free; StoreUnusable if the file system has no locks. The death
    of a process releases its lock.
    """

    def __init__(self, database: Path) -> None:
        self._database = database
        gate, lock = (database.with_name(database.name + ending) for ending in LOCKS)
        self._gate = open_private(gate, _OPEN)
        try:
            self._lock = open_private(lock, _OPEN)
        except OSError:
            os.close(self._gate)
            raise

    def __enter__(self) -> Self:
        self._take(self._gate)
        try:
            self._take(self._lock)
        finally:
            fcntl.flock(self._gate, fcntl.LOCK_UN)
        return self

    def take_now(self) -> bool:
        """Enter without waiting; False if any other writer holds the lock or waits for it."""
        if not self._take(self._gate, fcntl.LOCK_NB):
            return False
        try:
            return self._take(self._lock, fcntl.LOCK_NB)
        finally:
            fcntl.flock(self._gate, fcntl.LOCK_UN)

    def release(self) -> None:
        """Leave."""
        fcntl.flock(self._lock, fcntl.LOCK_UN)

    def _take(self, descriptor: int, mode: int = 0) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | mode)
        except BlockingIOError:
            return False
        except OSError as error:
            line = f"{NO_LOCKS.format(self._database)}: {error.strerror}"
            raise StoreUnusable(line) from error
        return True

    def __exit__(self, *exc_info: object) -> None:
        self.release()

    def close(self) -> None:
        """Close the files."""
        os.close(self._lock)
        os.close(self._gate)
