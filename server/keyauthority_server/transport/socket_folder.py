"""A private folder for the sockets between the parts of one process."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Final

_PREFIX: Final = "keyauthority-"
_PREFIX_IN_DATA: Final = "sockets-"
_PATH_MAX: Final = 90  # bytes, of the 103 that every system permits with the socket's name


class SocketFolder:
    """A new folder in the system's temporary folder, or in `data` if none can be written.

    With a read-only root, the data folder may be the only writable one.
    """

    def __init__(self, data: Path) -> None:
        self._stack = ExitStack()
        try:
            folder = tempfile.TemporaryDirectory(prefix=_PREFIX)
        except FileNotFoundError:  # tempfile found no folder that can be written
            folder = tempfile.TemporaryDirectory(prefix=_PREFIX_IN_DATA, dir=data)
        self._path = Path(self._stack.enter_context(folder))
        if len(os.fsencode(self._path)) > _PATH_MAX:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            self._stack.callback(os.close, descriptor)
            self._path = Path(f"/proc/self/fd/{descriptor}")

    def path(self, name: str) -> Path:
        """Return the path of a socket, valid in this process and short enough to be bound."""
        return self._path / name

    def remove(self) -> None:
        """Remove the folder."""
        self._stack.close()


def remove_abandoned(data: Path) -> None:
    """Remove the socket folders of killed workers; call it while no worker runs."""
    for folder in data.glob(f"{_PREFIX_IN_DATA}*"):
        shutil.rmtree(folder, ignore_errors=True)
