"""The server process of a test: started, awaited, and always stopped at the end."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from keyauthority.aio import AsyncClient
from keyauthority.client import Client

STOP_SECONDS: Final = 10.0

_READY: Final = re.compile(r"keyauthority-server ready on (\S+)\n")


class StartFailed(Exception):
    """The server did not start; the message is its output on standard error."""


@dataclass(frozen=True, slots=True)
class Authority:
    """A running authority with its first operator and the project `default`."""

    address: str
    """The address to connect to, `host:port`."""
    operator_key: str = field(repr=False)
    """The first operator key, with all permissions."""

    def client(self) -> Client:
        """Return a new client with all permissions; the caller closes it."""
        return Client(self.address, operator_key=self.operator_key)

    def async_client(self) -> AsyncClient:
        """Return a new asyncio client with all permissions; the caller closes it."""
        return AsyncClient(self.address, operator_key=self.operator_key)


@contextmanager
def authority(*flags: str) -> Iterator[Authority]:
    """Run a new authority for the duration of the context; it starts in about a second.

    `flags` are passed to `keyauthority-server serve`. Raises StartFailed if the server does not
    start.
    """
    with tempfile.TemporaryDirectory(prefix="keyauthority-") as folder, _log(folder) as log:
        data = Path(folder) / "data"
        process = subprocess.Popen(  # noqa: S603 - this project's own command
            [
                *(sys.executable, "-m", "keyauthority_server", "serve"),
                *("--data", str(data), "--listen", "127.0.0.1:0", *flags),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            env={name: text for name, text in os.environ.items() if not _is_setting(name)},
            text=True,
        )
        with process:
            try:
                assert process.stdout is not None  # noqa: S101 - for mypy
                ready = _READY.fullmatch(process.stdout.readline())
                if ready is None:
                    process.wait(STOP_SECONDS)
                    raise StartFailed(Path(log.name).read_text(encoding="utf-8").strip())
                operator_key = (data / "operator.key").read_text(encoding="ascii").strip()
                yield Authority(ready[1], operator_key)
            finally:
                _stop(process)


def _log(folder: str) -> IO[str]:
    return (Path(folder) / "log").open("w", encoding="utf-8")


def _is_setting(name: str) -> bool:
    return name.startswith("KEYAUTHORITY_")


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
