"""The cursor file: a log of operations, so that a change of the state is one short write.

A line is a JSON array of operations that are made together. A line that was not written to its end
is the last one, and is dropped: it has not been acted on. When the file has grown to several times
the state, it is written again and takes the place of the old one.

    with Journal(path) as journal:
        operations = journal.read()
        journal.append(["done", "7"])
        await journal.flush(snapshot)
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Self, cast

from keyauthority.notify.settings import CannotNotify, CursorFailed

GARBAGE_MIN: Final = 1 << 20  # bytes; a smaller file is not worth a rewrite
FORMAT: Final = ["keyauthority notify", 1]
"""The first operation of each file: the program, and the version of its format."""
DAMAGED: Final = "is damaged: remove it to begin with now"

Operation = Sequence[Any]
Snapshot = Callable[[], Sequence[Operation]]
"""Returns the operations that make the present state."""


class Journal:
    """A durable log of operations; without a path it keeps nothing."""

    def __init__(self, path: Path | None) -> None:
        self._path = path.resolve() if path else None
        self._stack = ExitStack()
        self._file = -1
        self._size = 0  # bytes of the file
        self._whole = 0  # bytes of the state when it was last written whole
        self._pending: list[Operation] = []
        self._writing = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, "cursor")

    def __enter__(self) -> Self:
        """Lock the file. Raises CursorFailed if another process uses it."""
        if self._path is None:
            return self
        try:
            lock = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._stack.callback(os.close, lock)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._stack.close()
            raise CursorFailed(f"--cursor-file: another process uses {self._path}") from None
        except OSError as failed:
            self._stack.close()
            raise self.unusable(failed.strerror) from None
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()
        if self._file >= 0:
            os.close(self._file)
        self._stack.close()

    def read(self) -> Iterator[Operation]:
        """Yield the operations of the file. Raises CannotNotify for a damaged or foreign one."""
        if self._path is None:
            return
        try:
            with open(self._path, "rb", opener=_open) as file:
                if fault := _fault(os.fstat(file.fileno())):
                    raise self.unusable(fault)
                *lines, rest = file.read().split(b"\n")
        except FileNotFoundError:
            return
        except OSError as failed:
            raise self.unusable(failed.strerror) from None
        if rest:
            lines.append(rest)
        for number, line in enumerate(lines, start=1):
            operations = _parse(line)
            if number == 1 and (not operations or operations[0] != FORMAT):
                raise self.unusable("is no cursor file of this program")
            if operations is not None:
                yield from operations[number == 1 :]
            elif number < len(lines):
                raise self.unusable(DAMAGED)

    def unusable(self, reason: str | None) -> CannotNotify:
        """Return the error of a file that cannot be used."""
        return CannotNotify(f"--cursor-file: {self._path}: {reason}")

    def append(self, *operations: Operation) -> None:
        """Add operations that are made together; `flush` writes them."""
        if self._path is not None:
            self._pending += operations

    async def flush(self, snapshot: Snapshot) -> None:
        """Return when all that was appended is on the disk. Raises CursorFailed.

        Callers at the same time share one write.
        """
        async with self._writing:
            if self._path is None or not self._pending:
                return
            write, operations = self._extend, self._pending
            if self._size - self._whole > self._whole + GARBAGE_MIN or self._file < 0:
                write, operations = self._rewrite, [FORMAT, *snapshot()]
            self._pending = []
            line = json.dumps(operations, separators=(",", ":")).encode("ascii") + b"\n"
            try:
                await asyncio.get_running_loop().run_in_executor(self._thread, write, line)
            except OSError as failed:
                raise CursorFailed(
                    f"--cursor-file: cannot write {self._path}: {failed.strerror}"
                ) from None

    def _extend(self, line: bytes) -> None:
        _write(self._file, line)
        os.fdatasync(self._file)
        self._size += len(line)

    def _rewrite(self, line: bytes) -> None:
        """Replace the file; until the new one is on the disk, the old one is in its place."""
        path = cast("Path", self._path)
        new = path.with_name(f"{path.name}.new")
        new.unlink(missing_ok=True)  # a link, or a file that another user made and may read
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        file = os.open(new, flags, 0o600)
        if self._file >= 0:
            os.close(self._file)
        self._file = file
        _write(file, line)
        os.fsync(file)
        new.replace(path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        self._size = self._whole = len(line)


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # for a FIFO


def _fault(status: os.stat_result) -> str:
    """Return why the file may hold what others wrote, whose events would be signed; else empty."""
    if not stat.S_ISREG(status.st_mode):
        return "is not a regular file"
    if status.st_uid not in (0, os.geteuid()):
        return "belongs to another user"
    by_group = status.st_mode & stat.S_IWGRP and status.st_gid not in (
        os.getegid(),
        *os.getgroups(),
    )
    if by_group or status.st_mode & stat.S_IWOTH:
        return "can be written by other users: remove it, or take that right from them"
    return ""


def _write(file: int, content: bytes) -> None:
    """Write all of it; a full disk may take a part first."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(file, rest) :]


def _parse(line: bytes) -> list[Operation] | None:
    """Return the operations of a line, or None for a damaged one."""
    try:
        operations = json.loads(line)
    except ValueError:
        return None
    return operations if isinstance(operations, list) else None
