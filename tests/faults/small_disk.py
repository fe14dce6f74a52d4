"""A server on a small file system in memory, in a mount namespace of its own.

Its data folder is reached through `/proc`.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

from tests.service.processes import ServerProcess, command, start

SIZE: Final = 40 << 20  # bytes of the file system: enough for a whole reserve

_APART: Final = ("unshare", "--map-root-user", "--mount", "sh", "-c")
_MOUNTED: Final = f'mount -t tmpfs -o size={SIZE} none "$0" && exec "$@"'


@contextmanager
def small_server(
    folder: Path, *flags: str, settings: Mapping[str, str] | None = None
) -> Iterator[ServerProcess]:
    """Give a server whose data folder is on the small file system; skip if none can be mounted."""
    small = folder / "small"
    small.mkdir()
    if not _can_mount(small):
        pytest.skip("no mount namespace here; test_disk_reserve.py tests the rule in process")
    program = [*_APART, _MOUNTED, str(small), *command()]
    running = start(
        small / "data",
        *("--metrics", "127.0.0.1:0", *flags),
        settings=settings,
        program=program,
    )
    inside = Path(f"/proc/{running.process.pid}/root{small / 'data'}")
    try:
        yield dataclasses.replace(running, data=inside)
    finally:
        running.stop()


def run_inside(server: ServerProcess, *words: str) -> None:
    """Run a command, which must succeed, where the small file system is mounted.

    SQLite follows the paths of `/proc` to where nothing is mounted.
    """
    entered = ("nsenter", f"--target={server.process.pid}", "--user", "--mount", "--")
    root = f"/proc/{server.process.pid}/root"
    subprocess.run([*entered, *(word.removeprefix(root) for word in words)], check=True)


def fill(folder: Path) -> Path:
    """Take all space that there is; return the file that takes it."""
    filler = folder / "filler"
    with filler.open("ab", buffering=0) as file, suppress(OSError):
        for size in (64 << 10, 4 << 10, 1):
            with suppress(OSError):
                while file.write(b"\1" * size) == size:
                    pass
    assert 0 == os.statvfs(folder).f_bavail
    return filler


def _can_mount(folder: Path) -> bool:
    if shutil.which("unshare") is None:
        return False
    tried = subprocess.run([*_APART, _MOUNTED, folder, "true"], capture_output=True, check=False)
    return tried.returncode == 0
