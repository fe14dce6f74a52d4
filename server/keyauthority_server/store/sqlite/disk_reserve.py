"""Space kept in reserve beside the database: with a full disk, access can still be taken away.

A file holds it, since a threshold alone would keep nothing from other programs that fill the disk.
While space is low, work that adds is refused, so that it does not use up the last of it; urgent
work has the file shortened, a step at a time, by as much as a group of it may need. With space
again the file grows back, and work goes on. All of that is done under the writers' lock, so the
processes of a server share one reserve.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

import structlog

from keyauthority_server.private_files import open_private

RESERVE_BYTES: Final = 4 << 20  # some 2,000 revocations, and the write-ahead log that they go into
RESERVE_SHARE: Final = 8  # of a small file system it is one part in so many
LOW_BYTES: Final = 512 << 10  # free: what a group of additions may take is still there
STEP_BYTES: Final = 128 << 10  # some ten revocations at once; a larger group takes several

_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

_log = structlog.get_logger(__name__)


def reserve_path(database: Path) -> Path:
    """Return where the reserve of a database is."""
    return database.with_name(f"{database.name}.reserve")


class DiskReserve:
    """The reserve of one database. Not for more than one thread; the caller holds the lock."""

    def __init__(self, database: Path) -> None:
        """Open the file, and make it if there is none; raises OSError."""
        self._file = open_private(reserve_path(database), os.O_RDWR | os.O_CREAT)
        found = os.fstatvfs(self._file)
        share = found.f_blocks * found.f_frsize // RESERVE_SHARE
        self._wanted = min(RESERVE_BYTES, share)
        self._low = False

    @property
    def is_whole(self) -> bool:
        """True while nothing of it was used, or all has grown back."""
        return os.fstat(self._file).st_size >= self._wanted

    def has_room(self) -> bool:
        """True if work that adds may go on: there is space, and the reserve is whole.

        Lets it grow back if it can.
        """
        room = self._free() >= LOW_BYTES and (self.is_whole or self._grow())
        if room is self._low:
            self._low = not room
            _log.warning("disk_low" if self._low else "disk_has_space_again", free=self._free())
        return room

    def release(self) -> bool:
        """Give up a step of it; False if nothing is left to give."""
        size = os.fstat(self._file).st_size
        os.ftruncate(self._file, max(size - STEP_BYTES, 0))
        return size > 0

    def make_room(self) -> None:
        """Give up a step if urgent work would not find enough space."""
        if self._free() < STEP_BYTES:
            self.release()

    def close(self) -> None:
        """Let go of the file, which stays."""
        os.close(self._file)

    def _free(self) -> int:
        found = os.fstatvfs(self._file)
        return found.f_bavail * found.f_frsize

    def _grow(self) -> bool:
        size = os.fstat(self._file).st_size
        if self._free() < self._wanted - size + LOW_BYTES:
            return False
        try:
            os.posix_fallocate(self._file, 0, self._wanted)
        except OSError as failure:
            os.ftruncate(self._file, size)  # what was tried may have taken some of it
            if failure.errno in _NO_SPACE:
                return False
            _log.warning("no_disk_reserve", error=failure.strerror)
            self._wanted = 0  # this file system has none to give: go on without
        return True
