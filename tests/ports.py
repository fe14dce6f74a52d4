"""Ports for programs that cannot choose one themselves."""

from __future__ import annotations

import random
import socket
from contextlib import suppress
from typing import Final

_RANGE: Final = range(15_000, 30_000)
"""Below the ports of outgoing connections: one of those may take a port before its server does."""


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port of an address that is not in use."""
    while True:
        port = random.SystemRandom().choice(_RANGE)
        with suppress(OSError), socket.socket() as unused:
            unused.bind((host, port))
            return port


def listens(port: int, host: str = "127.0.0.1") -> bool:
    """True if a connection to the port is accepted."""
    with socket.socket() as attempt:
        return attempt.connect_ex((host, port)) == 0
