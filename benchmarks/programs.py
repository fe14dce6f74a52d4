"""Programs that run until a context ends."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def running(command: list[str], *, ready: bool = False) -> Iterator[str]:
    """Run a program; yield the first line of its output if `ready` is set."""
    output = subprocess.PIPE if ready else subprocess.DEVNULL
    with subprocess.Popen(command, stdout=output, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            yield process.stdout.readline().strip() if process.stdout else ""
        finally:
            process.terminate()


def free_address() -> str:
    """Return an unused address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"
