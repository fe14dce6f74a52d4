"""Addresses to listen on: `127.0.0.1:9002`, `[::1]:9002` or `unix:/run/auth`."""

from __future__ import annotations

import errno
import ipaddress
import re
import socket
import stat
from pathlib import Path
from typing import Final, NamedTuple

SOCKET_MODE: Final = 0o666  # the folder decides who may connect

_TCP: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[0-9.]+|localhost):([0-9]{1,5})", re.ASCII)
_PORT_MAX: Final = 65_535
_FORMS: Final = "write an IP address and a port, or unix:/path"


class Listen(NamedTuple):
    """An address: `path` of a unix socket, or `host` and `port`."""

    host: str
    port: int
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def is_local(self) -> bool:
        """Return True if only this machine can connect."""
        return bool(self.path) or ipaddress.ip_address(self.host).is_loopback


def parse_listen(text: str) -> Listen:
    """Return the parsed address; port 0 lets the system choose. Raises ValueError."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path.startswith("/"):
            raise ValueError(f"{text!r}: {_FORMS}")
        return Listen("", 0, path)
    match = _TCP.fullmatch(text)
    if match is None or int(match[2]) > _PORT_MAX:
        raise ValueError(f"{text!r}: {_FORMS}")
    host = "127.0.0.1" if match[1] == "localhost" else match[1].strip("[]")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise ValueError(f"{text!r}: {_FORMS}") from None
    return Listen(host, int(match[2]))


def bind(address: Listen) -> socket.socket:
    """Return a bound socket. Raises OSError, with the address, if it is taken.

    The file of a unix socket that no process listens on is replaced.
    """
    try:
        if address.path:
            _remove_stale(address.path)
            return _bound(socket.AF_UNIX, address.path)
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        return _bound(family, (address.host, address.port))
    except OSError as error:
        raise OSError(f"{address}: {error.strerror or error}") from error  # a path may be too long


def _bound(family: socket.AddressFamily, address: str | tuple[str, int]) -> socket.socket:
    bound = socket.socket(family)
    try:
        if family != socket.AF_UNIX:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        if isinstance(address, str):
            Path(address).chmod(SOCKET_MODE)
    except OSError:
        bound.close()
        raise
    return bound


def _remove_stale(path: str) -> None:
    try:
        if not stat.S_ISSOCK(Path(path).lstat().st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as attempt:
        if attempt.connect_ex(path) == errno.ECONNREFUSED:
            Path(path).unlink()
