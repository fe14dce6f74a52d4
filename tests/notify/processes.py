"""`keyauthority notify` as a process: started by the command, watched, and ended with the test."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from keyauthority.testing import Authority
from tests.service.processes import end, environment, shim

READY: Final = "keyauthority notify ready\n"
STOP_SECONDS: Final = 30  # on a machine that is busy

SHORT_DELAYS: Final = """
from keyauthority.notify import outbox, sender
outbox.DELAYS = (0.05,) * 100
sender.THROTTLE_SECONDS = 0.005
"""
"""For `Notify.shims`: retries and pauses of a fraction of a second."""

NETWORK: Final = """
import json, os, socket
from pathlib import Path

folder = Path(__file__).parent
hosts = json.loads((folder / "hosts.json").read_text())
real_lookup, real_connect = socket.getaddrinfo, socket.socket.connect
trace_file = (folder / "trace").open("a", buffering=1)


def trace(kind, text):
    trace_file.write(f"{kind} {text}\\n")


def getaddrinfo(host, port, *args, **kwargs):
    if host not in hosts:
        return real_lookup(host, port, *args, **kwargs)
    answers = hosts[host]
    addresses = answers.pop(0) if len(answers) > 1 else answers[0]
    trace("lookup", host)
    return [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0))
        if ":" in address
        else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
        for address in addresses
    ]


def connect(self, address):
    trace("connect", address[0])
    host = "127.0.0.1" if address[0] in hosts["*"] else address[0]
    return real_connect(self, (host, *address[1:]))


socket.getaddrinfo, socket.socket.connect = getaddrinfo, connect
"""
"""For `Notify.shims`: names of the test's own, and a record of every look-up and connection.

`hosts.json` has the addresses of each name, one list for each look-up, of which the last one stays,
and under `*` addresses whose connections go to 127.0.0.1.
"""


@dataclass
class Notify:
    """The command with its files, which can be started any number of times."""

    authority: Authority
    folder: Path
    url: str
    secrets: Sequence[str]
    flags: Sequence[str] = ("--allow-private",)
    shims: str = ""
    """Code that runs first in the process."""
    settings: Mapping[str, str] | None = None
    process: subprocess.Popen[str] | None = None

    def __post_init__(self) -> None:
        self.write_secrets(*self.secrets)
        shim(self.folder / "shim", self.shims)

    @property
    def cursor(self) -> Path:
        """The cursor file."""
        return self.folder / "cursor"

    @property
    def log(self) -> str:
        """All that was logged, by all starts."""
        return (self.folder / "log").read_text(encoding="utf-8")

    def write_secrets(self, *secrets: str) -> None:
        """Replace the file of secrets at once."""
        draft = self.folder / "secrets.new"
        draft.touch(0o600)
        draft.write_text("".join(f"{secret}\n" for secret in secrets), encoding="ascii")
        draft.replace(self.folder / "secrets")

    def write_hosts(self, hosts: Mapping[str, Any]) -> None:
        """Set the names of `NETWORK`."""
        (self.folder / "shim" / "hosts.json").write_text(json.dumps({"*": [], **hosts}))

    def traced(self, kind: str) -> list[str]:
        """The hosts looked up, or the addresses connected to, as `NETWORK` has recorded them."""
        trace = self.folder / "shim" / "trace"
        lines = trace.read_text().splitlines() if trace.exists() else []
        return [line.split()[1] for line in lines if line.split()[0] == kind]

    def start(self) -> None:
        """Start it and wait until it is ready."""
        self.launch()
        assert self.process
        assert self.process.stdout
        assert READY == self.process.stdout.readline(), self.log

    def launch(self) -> None:
        """Start it, but do not wait."""
        with (self.folder / "log").open("a", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "keyauthority.cli", "notify"),
                    *("--webhook", self.url, "--secret-file", str(self.folder / "secrets")),
                    *("--cursor-file", str(self.cursor), *self.flags),
                ],
                env=environment(
                    {
                        "KEYAUTHORITY_ADDRESS": self.authority.address,
                        "KEYAUTHORITY_OPERATOR_KEY": self.authority.operator_key,
                        "PYTHONPATH": str(self.folder / "shim"),
                        **(self.settings or {}),
                    }
                ),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def wait(self) -> int:
        """Wait for its end, and return its exit code."""
        assert self.process
        with self.process as process:
            return process.wait(STOP_SECONDS)

    def stop(self) -> int:
        """Drain it, and return its exit code."""
        assert self.process
        self.process.terminate()
        return self.wait()

    def kill(self) -> None:
        """End it with SIGKILL."""
        assert self.process
        self.process.kill()
        self.wait()

    def close(self) -> None:
        """End it, if it runs."""
        if self.process and self.process.returncode is None:
            with self.process as process:
                end(process, STOP_SECONDS)
