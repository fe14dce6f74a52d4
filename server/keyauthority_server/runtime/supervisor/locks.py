"""Exclusive locks on the data folder and the address.

With SO_REUSEPORT a second server could silently join a port, and binding a unix socket silently
replaces another's. Locks use flock(2): the kernel releases them when the last process with the
descriptor ends, even by a kill.
"""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from keyauthority_server.config import (
    ConfigError,
    HostPort,
    Listen,
    TransientError,
    UnixPath,
    refusal,
)
from keyauthority_server.private_files import NO_LOCKS, make_folder, open_private

WORKERS_LEAVE_SECONDS: Final = 10  # orphans exit at once; a busy machine may need longer
RETRY_SECONDS: Final = 0.05

_log = structlog.get_logger("keyauthority_server")

_SUPERVISOR_LOCK: Final = "supervisor.lock"
_WORKERS_LOCK: Final = "workers.lock"


@dataclass(frozen=True, slots=True)
class BoundAddress:
    """A locked address, with the descriptors that workers inherit."""

    listen: Listen
    """Bind address of the workers: numeric, with the actual port."""
    display: str
    """The configured address with the actual port."""
    descriptors: tuple[int, ...]


@contextmanager
def hold_folder(folder: Path) -> Iterator[int]:
    """Lock the data folder and yield the descriptor that workers inherit.

    Creates a missing folder with mode 0700. Raises ConfigError if it is not writable,
    TransientError if another server uses it. Waits for orphaned workers of a killed supervisor.
    """
    try:
        group = make_folder(folder)
    except OSError as error:
        raise refusal(error, f"cannot use the data folder {folder}") from error
    if group is not None:
        _log.warning("open_to_group", path=str(folder), gid=group)
    with (
        _lock(folder / _SUPERVISOR_LOCK, 0, f"another server is using the data folder {folder}"),
        _lock(
            folder / _WORKERS_LOCK,
            WORKERS_LEAVE_SECONDS,
            f"workers of a server that was killed are still using the data folder {folder}",
        ) as descriptor,
    ):
        yield descriptor


@contextmanager
def hold_address(listen: Listen) -> Iterator[BoundAddress]:
    """Lock the address for the workers.

    Raises TransientError if the address is in use or not assigned yet, else ConfigError.
    """
    hold = _hold_path(listen) if isinstance(listen, UnixPath) else _hold_port(listen)
    with hold as address:
        yield address


@contextmanager
def _lock(path: Path, patience: float, taken: str) -> Iterator[int]:
    """Lock a file within `patience` seconds, else raise TransientError(`taken`)."""
    try:
        descriptor = open_private(path, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise refusal(error, f"cannot write {path}") from error
    try:
        deadline = time.monotonic() + patience
        while not _try_lock(descriptor, path):
            if time.monotonic() >= deadline:
                raise TransientError(taken)
            time.sleep(RETRY_SECONDS)
        yield descriptor
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int, path: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise refusal(error, NO_LOCKS.format(path)) from error
    return True


@contextmanager
def _hold_path(listen: UnixPath) -> Iterator[BoundAddress]:
    path = listen.path
    in_use = f"{listen} is in use by another server"
    with _lock(path.with_name(path.name + ".lock"), 0, in_use) as descriptor:
        if path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
            raise ConfigError(
                f"{path} exists and is not a socket: remove it, or choose another path"
            )
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(os.fsencode(path)) == 0:  # a server without this lock file
                raise TransientError(in_use)
        try:
            yield BoundAddress(listen, str(listen), (descriptor,))
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def _hold_port(listen: HostPort) -> Iterator[BoundAddress]:
    """Reserve the port with a bound socket that never listens; all workers join it.

    The probe binds without SO_REUSEPORT, so it detects a listener that would permit joining.
    """
    try:
        found = socket.getaddrinfo(listen.host, listen.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise TransientError(f"cannot listen on {listen}: {error.strerror}") from error
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)  # `localhost` means 127.0.0.1
    family, _type, _protocol, _name, address = found[0]
    with socket.socket(family, socket.SOCK_STREAM) as holder:
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            holder.bind(address)
        except OSError as error:
            raise refusal(error, f"cannot listen on {listen}") from error
        host, port = holder.getsockname()[:2]
        yield BoundAddress(HostPort(host, port), str(HostPort(listen.host, port)), ())
