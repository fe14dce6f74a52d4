"""Gateways as processes: started by the command, watched, and ended with the test."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.service.processes import end, environment

READY: Final = re.compile(r"keyauthority gateway ready: grpc (\S+), http (\S+)\n")
STOP_SECONDS: Final = 30  # on a machine that is busy; a drain takes 1
WITHOUT_NATIVE: Final = "import sys; sys.modules['pygrpc_native.aio'] = None\n"
"""For `tests.service.processes.shim`: a gateway without the native server."""


@dataclass
class Gateway:
    """A running gateway."""

    process: subprocess.Popen[str]
    grpc: str
    http: str
    log: Path

    @property
    def url(self) -> str:
        """The URL of its HTTP end."""
        return f"http://{self.http}"

    def log_text(self) -> str:
        """All that it has logged."""
        return self.log.read_text(encoding="utf-8")

    def stop(self) -> int:
        """Drain it, and return its exit code."""
        self.process.terminate()
        return self.process.wait(STOP_SECONDS)


def command(*flags: str) -> list[str]:
    """Return the command line of a gateway."""
    return [sys.executable, "-m", "keyauthority.cli", "gateway", *flags]


@contextmanager
def gateway(
    address: str,
    *flags: str,
    settings: Mapping[str, str],
    grpc: str = "127.0.0.1:0",
    http: str = "127.0.0.1:0",
) -> Iterator[Gateway]:
    """Run a gateway for the authority at an address; `settings` holds its operator key."""
    with tempfile.TemporaryDirectory(prefix="keyauthority-gateway-") as folder:
        log = Path(folder) / "log"
        with log.open("w", encoding="utf-8") as log_file:
            process = subprocess.Popen(
                command("--grpc", grpc, "--http", http, *flags),
                env=environment({"KEYAUTHORITY_ADDRESS": address, **settings}),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log_file,
                text=True,
            )
        with process:
            try:
                assert process.stdout
                ready = READY.fullmatch(process.stdout.readline())
                assert ready, log.read_text()
                yield Gateway(process, ready[1], ready[2], log)
            finally:
                end(process, STOP_SECONDS)
