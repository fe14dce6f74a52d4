"""Stands between SQLite and its files: each write, truncation, sync and removal passes by here.

It changes the methods of the driver's own default VFS in place, by SQLite's public interface
(https://www.sqlite.org/vfs.html), so it needs neither a compiler nor rights.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from ctypes import CFUNCTYPE, POINTER, c_char_p, c_int, c_int64, c_void_p
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol

from keyauthority_server.store.sqlite.connection import sqlite3

OK: Final = 0
Pass = Callable[[], int]
"""Performs the operation, and returns SQLite's result code."""


class Disk(Protocol):
    """Observes each operation, and decides whether it is performed; any thread may call."""

    def write(self, path: Path, data: bytes, offset: int, go_on: Pass) -> int:
        """Return the result of a write."""
        ...

    def truncate(self, path: Path, size: int, go_on: Pass) -> int:
        """Return the result of a truncation."""
        ...

    def sync(self, path: Path, go_on: Pass) -> int:
        """Return the result of a sync."""
        ...

    def delete(self, path: Path, go_on: Pass) -> int:
        """Return the result of a removal."""
        ...


_Write: Final = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
_Truncate: Final = CFUNCTYPE(c_int, c_void_p, c_int64)
_Sync: Final = CFUNCTYPE(c_int, c_void_p, c_int)
# The name is a pointer: SQLite keeps it, and the parameters of a URI follow it.
_Open: Final = CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_int, c_void_p)
_Delete: Final = CFUNCTYPE(c_int, c_void_p, c_char_p, c_int)


class _Methods(ctypes.Structure):
    """sqlite3_io_methods, version 3."""

    _fields_: ClassVar = [
        ("iVersion", c_int),
        ("xClose", c_void_p),
        ("xRead", c_void_p),
        ("xWrite", _Write),
        ("xTruncate", _Truncate),
        ("xSync", _Sync),
        *((f"other_{number}", c_void_p) for number in range(13)),
    ]


class _File(ctypes.Structure):
    """sqlite3_file: the VFS's own fields follow it."""

    _fields_: ClassVar = [("pMethods", POINTER(_Methods))]


class _Vfs(ctypes.Structure):
    """sqlite3_vfs, as far as it is used here."""

    _fields_: ClassVar = [
        ("iVersion", c_int),
        ("szOsFile", c_int),
        ("mxPathname", c_int),
        ("pNext", c_void_p),
        ("zName", c_char_p),
        ("pAppData", c_void_p),
        ("xOpen", _Open),
        ("xDelete", _Delete),
    ]


_kept: Final[list[Any]] = []
"""Objects that SQLite points to: kept for the life of the process."""


def install(disk: Disk) -> None:
    """Let all files that this process opens from now on pass by `disk`."""
    library = ctypes.CDLL(sys.modules[f"{sqlite3.__name__}._sqlite3"].__file__)
    library.sqlite3_vfs_find.restype = POINTER(_Vfs)
    vfs = library.sqlite3_vfs_find(None).contents
    address = ctypes.addressof(vfs)
    own_open = _Open(c_void_p.from_address(address + _Vfs.xOpen.offset).value or 0)
    own_delete = _Delete(c_void_p.from_address(address + _Vfs.xDelete.offset).value or 0)
    shims: dict[int, _Methods] = {}
    paths: dict[int, Path] = {}

    def open_(this: int, name: int | None, file: int, flags: int, out: int) -> int:
        code = own_open(this, name, file, flags, out)
        opened = _File.from_address(file)
        if code == OK and name and opened.pMethods:
            paths[file] = Path(ctypes.string_at(name).decode())
            own = ctypes.addressof(opened.pMethods.contents)
            if own not in shims:
                shims[own] = _shim(opened.pMethods.contents, disk, paths)
            opened.pMethods = ctypes.pointer(shims[own])
        return int(code)

    def delete(this: int, name: bytes, sync: int) -> int:
        return disk.delete(Path(name.decode()), lambda: int(own_delete(this, name, sync)))

    vfs.xOpen, vfs.xDelete = _Open(open_), _Delete(delete)
    _kept.extend((vfs.xOpen, vfs.xDelete, own_open, own_delete, shims, open_, delete))


def _shim(own: _Methods, disk: Disk, paths: dict[int, Path]) -> _Methods:
    """Return a copy of a file's methods that passes each change of the file to `disk`."""
    shim = _Methods.from_buffer_copy(own)

    def write(file: int, data: int, size: int, offset: int) -> int:
        go_on = lambda: int(own.xWrite(file, data, size, offset))  # noqa: E731 - one of four
        return disk.write(paths[file], ctypes.string_at(data, size), offset, go_on)

    def truncate(file: int, size: int) -> int:
        return disk.truncate(paths[file], size, lambda: int(own.xTruncate(file, size)))

    def sync(file: int, flags: int) -> int:
        return disk.sync(paths[file], lambda: int(own.xSync(file, flags)))

    shim.xWrite, shim.xTruncate, shim.xSync = _Write(write), _Truncate(truncate), _Sync(sync)
    _kept.extend((shim.xWrite, shim.xTruncate, shim.xSync, own))
    return shim
