"""Reserved disk space: on a full disk, access can still be taken away.

A file holds the space, because a threshold alone would not stop other programs from using it. While
space is low, work that adds records fails before it uses up the rest; for urgent work the file is
shortened in steps, each as large as a group of urgent units may need. Once space is free, the file
grows back and all work resumes. All of this happens under the writers' lock, so the processes of a
server share one reserve.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

import structlog

from keyauthority_server.private_files import open_private

RESERVE_BYTES: Final = 4 << 20  # for some 2,000 revocations and their write-ahead log
RESERVE_SHARE: Final = 8  # on a small file system at most this fraction, 1/8
LOW_BYTES: Final = 512 << 10  # free space below which it is low: more than a group of additions
STEP_BYTES: Final = 128 << 10  # some ten revocations at once; a larger group takes several

_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

_log = structlog.get_logger(__name__)


def reserve_path(database: Path) -> Path:
    """Return the path of a database's reserve."""
    return database.with_name(f"{database.name}.reserve")


class DiskReserve:
    """The reserve of one database. Not for more than one thread; the caller holds the lock."""

    def __init__(self, database: Path) -> None:
        """Open the file, or create it; raises OSError."""
        self._file = open_private(reserve_path(database), os.O_RDWR | os.O_CREAT)
        found = os.fstatvfs(self._file)
        share = found.f_blocks * found.f_frsize // RESERVE_SHARE
        self._wanted = min(RESERVE_BYTES, share)
        self._low = False

    @property
    def is_whole(self) -> bool:
        """True if the reserve has its full size."""
        return os.fstat(self._file).st_size >= self._wanted

    def restore(self) -> bool:
        """Bring the reserve to its full size if there is space; True if records may be added."""
        room = self._free() >= LOW_BYTES and (self.is_whole or self._grow())
        if room is self._low:
            self._low = not room
            _log.warning("disk_low" if self._low else "disk_has_space_again", free=self._free())
        return room

    def release(self) -> bool:
        """Release one step; False if the reserve is used up."""
        size = os.fstat(self._file).st_size
        os.ftruncate(self._file, max(size - STEP_BYTES, 0))
        return size > 0

    def make_room(self) -> None:
        """Release one step if urgent work would lack space."""
        if self._free() < STEP_BYTES:
            self.release()

    def close(self) -> None:
        """Close the file, which stays in place."""
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
            os.ftruncate(self._file, size)  # the attempt may have allocated a part
            if failure.errno in _NO_SPACE:
                return False
            _log.warning("no_disk_reserve", error=failure.strerror)
            self._wanted = 0  # unsupported by this file system: continue without a reserve
        return True
