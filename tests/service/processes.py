"""Real servers as processes: started on a free port with a folder of their own, watched, ended.

Black-box: it shows only the view of the machine's operator.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any, Final, NamedTuple, Protocol

STOP_SECONDS: Final = 45  # longer than a drain may take
REFUSE_SECONDS: Final = 90  # on a machine that is busy; a refusal takes 2
WAIT_SECONDS: Final = 20
POLL_SECONDS: Final = 0.02
READY: Final = re.compile(r"keyauthority-server ready on (\S+)\n")
HTTP: Final = re.compile(r"keyauthority-server http on (\S+)\n")


class Outcome(NamedTuple):
    """The result of a process."""

    code: int
    output: str
    log: str


Command = Callable[..., Outcome]
"""Runs a command line with these arguments."""


class StartFailed(Exception):
    """The server ended before it was ready, or was not ready in time."""


class Process(Protocol):
    """The interface of a server's process; `subprocess.Popen` is one."""

    pid: int

    @property
    def returncode(self) -> int | Any:
        """How it ended."""
        ...

    def poll(self) -> int | None:
        """None while it lives."""
        ...

    def terminate(self) -> None:
        """Ask it to end."""
        ...

    def kill(self) -> None:
        """End it."""
        ...

    def communicate(self, *, timeout: float) -> tuple[str, str]:
        """Wait for its end; return the rest of its output."""
        ...


@dataclass
class ServerProcess:
    """A running server."""

    process: Process
    data: Path
    log: Path
    ready_line: str
    http_line: str = ""
    """The line before it, of a server with `--http`."""

    @property
    def http(self) -> str:
        """The address for HTTP."""
        match = HTTP.fullmatch(self.http_line)
        assert match, self.http_line
        return match[1]

    @property
    def address(self) -> str:
        """The address for clients."""
        match = READY.fullmatch(self.ready_line)
        assert match, self.ready_line
        return match[1]

    @property
    def operator_key(self) -> str:
        """The first operator key."""
        return (self.data / "operator.key").read_text(encoding="ascii").strip()

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The metadata of a call with the first operator key."""
        return (("authorization", f"Bearer {self.operator_key}"),)

    def worker_pids(self) -> list[int]:
        """The worker processes that live now."""
        return children(self.process.pid)

    def log_text(self) -> str:
        """All that was written to standard error up to now."""
        return self.log.read_text(encoding="utf-8")

    def terminate(self) -> None:
        """Ask the server to drain."""
        self.process.terminate()

    def wait(self) -> Outcome:
        """Wait for the server's end."""
        output, _ = self.process.communicate(timeout=STOP_SECONDS)
        printed = self.http_line + self.ready_line + output
        return Outcome(self.process.returncode, printed, self.log_text())

    def stop(self) -> Outcome:
        """Drain the server and wait for its end."""
        self.terminate()
        return self.wait()

    def kill(self) -> Outcome:
        """End the supervisor with SIGKILL, and see that nothing of the server is left."""
        workers = self.worker_pids()
        self.process.kill()
        outcome = self.wait()
        wait_until(lambda: not any(is_alive(pid) for pid in workers))
        return outcome


def command(*arguments: str) -> list[str]:
    """The command line of the server's program."""
    return [sys.executable, "-m", "keyauthority_server", *arguments]


def port_settings(arguments: Sequence[str]) -> dict[str, str]:
    """Return settings of a run that ends by itself.

    A server has a free port: another program may listen on the default one.
    """
    return {"KEYAUTHORITY_LISTEN": "127.0.0.1:0"} if "serve" in arguments else {}


def environment(settings: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without settings of the server but those given."""
    inherited = {
        name: text for name, text in os.environ.items() if not name.startswith("KEYAUTHORITY_")
    }
    return inherited | dict(settings or {})


def start(
    data: Path,
    *flags: str,
    listen: str = "127.0.0.1:0",
    settings: Mapping[str, str] | None = None,
    program: Sequence[str] = (),
) -> ServerProcess:
    """Start a server and wait until it is ready. `program` stands in for the command."""
    log = data.with_name(data.name + ".log")
    with log.open("a", encoding="utf-8") as log_file:
        process = subprocess.Popen(
            [*(program or command()), "serve", "--data", str(data), "--listen", listen, *flags],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log_file,
            env=environment(settings),
            text=True,
        )
    assert process.stdout
    ready_line = process.stdout.readline()
    http_line = ready_line if HTTP.fullmatch(ready_line) else ""
    if http_line:
        ready_line = process.stdout.readline()
    server = ServerProcess(process, data, log, ready_line, http_line)
    if not ready_line:
        raise StartFailed(server.wait().log)
    return server


def run(
    *arguments: str, settings: Mapping[str, str] | None = None, program: Sequence[str] = ()
) -> Outcome:
    """Run the program until it ends by itself."""
    done = subprocess.run(
        [*(program or command()), *arguments],
        capture_output=True,
        check=False,
        env=environment({**port_settings(arguments), **(settings or {})}),
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=REFUSE_SECONDS,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def children(pid: int) -> list[int]:
    """The child processes of a process that live now."""
    found: list[int] = []
    for children_path in Path("/proc").glob(f"{pid}/task/*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended meanwhile
            found += map(int, children_path.read_text(encoding="ascii").split())
    return [child for child in found if is_alive(child)]


def is_alive(pid: int) -> bool:
    """True until all threads of the process have ended, and with the last of them its sockets.

    One that has ended and awaits its parent does not live.
    """
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
        threads = len(list(Path(f"/proc/{pid}/task").iterdir()))
    except (FileNotFoundError, ProcessLookupError):
        return False
    return threads > 1 or status.rpartition(") ")[2][0] not in "ZX"


def kill(pid: int) -> None:
    """End one process with SIGKILL and see it gone."""
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(pid))


def end(process: subprocess.Popen[Any], seconds: float = STOP_SECONDS) -> None:
    """Ask a process to end, and kill it if it has not after `seconds`."""
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()


def wait_until(holds: Callable[[], bool], seconds: float = WAIT_SECONDS) -> None:
    """Wait until a condition holds; fails after `seconds`."""
    pause = Event()
    for _ in range(int(seconds / POLL_SECONDS)):
        if holds():
            return
        pause.wait(POLL_SECONDS)
    raise AssertionError(f"did not happen within {seconds} s")


def shim(folder: Path, code: str) -> Path:
    """Make a folder for PYTHONPATH whose code each Python process runs at its start."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(code)
    return folder
