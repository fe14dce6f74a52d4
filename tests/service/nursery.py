"""Servers without the start of an interpreter: forked from a process that imported the program.

What runs is the program itself, supervisor and workers, each a process of its own. Only exec is
left out, so that thousands of them can be started and killed where one start takes a second.

`python -m tests.faults.nursery` reads a line of JSON for each server, `argv`, `ready` and `log`,
and prints the process that it has become.
"""

from __future__ import annotations

import asyncio
import ctypes
import functools
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NoReturn

from keyauthority_server import worker
from keyauthority_server.commands import main as program
from tests.service.processes import (
    STOP_SECONDS,
    ServerProcess,
    StartFailed,
    environment,
    is_alive,
    wait_until,
)

_PR_SET_PDEATHSIG: Final = 1


class Forked:
    """A process that the nursery has made, in the place of `subprocess.Popen`."""

    returncode = 0  # nobody waits for it but the nursery

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def poll(self) -> int | None:
        """None while it lives."""
        return None if is_alive(self.pid) else self.returncode

    def terminate(self) -> None:
        """Ask it to end."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self._send(signal.SIGKILL)

    def communicate(self, timeout: float = STOP_SECONDS) -> tuple[str, str]:
        """Wait for its end; it prints nothing but its ready line."""
        wait_until(lambda: not is_alive(self.pid), timeout)
        return "", ""

    def _send(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)


class Nursery:
    """Starts servers."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def start(self, data: Path, *flags: str) -> ServerProcess:
        """Start a server on a free port and wait until it is ready."""
        ready, log = data.with_name(data.name + ".ready"), data.with_name(data.name + ".log")
        ready.write_text("")
        argv = ["serve", "--data", str(data), "--listen", "127.0.0.1:0", *flags]
        assert self._process.stdin
        assert self._process.stdout
        order = {"argv": argv, "ready": str(ready), "log": str(log)}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        forked = Forked(int(self._process.stdout.readline()))
        wait_until(lambda: ready.read_text().endswith("\n") or forked.poll() is not None, 120)
        if not (line := ready.read_text()):
            raise StartFailed(log.read_text())
        return ServerProcess(forked, data, log, line)


@contextmanager
def nursery(settings: Mapping[str, str] | None = None) -> Iterator[Nursery]:
    """Give a nursery; servers that it made are the caller's to end.

    `settings` are variables of its environment, and of theirs.
    """
    with subprocess.Popen(
        [sys.executable, "-m", "tests.faults.nursery"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment({"GRPC_VERBOSITY": "NONE", **(settings or {})}),
        text=True,
    ) as process:
        yield Nursery(process)


def main() -> None:
    """Fork a server for each line of the input."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if not pid:
            _become(**order)
        print(pid, flush=True)  # noqa: T201 - what it was asked for


def _become(argv: Sequence[str], ready: str, log: str) -> NoReturn:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # no server outlives the tests
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(os.open(ready, os.O_WRONLY | os.O_APPEND), 1)
    os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), 2)
    asyncio.create_subprocess_exec = _forking(asyncio.create_subprocess_exec)
    sys.argv = ["keyauthority-server", *argv]
    _run(program)


def _run(main: Callable[[], None]) -> NoReturn:
    """Do what a process is there for, and end it, as an interpreter does."""
    code: object = 0
    try:
        main()
    except SystemExit as end:
        code = end.code
    except BaseException:  # noqa: BLE001 - as above
        traceback.print_exc()
        code = 1
    finally:
        os._exit(code if isinstance(code, int) else 0)


def _forking(start: Any) -> Any:
    """Return what starts a worker by becoming it, where `start` would run another interpreter."""

    @functools.wraps(start)
    async def fork(*command: str, pass_fds: Sequence[int], **settings: Any) -> Any:
        def become() -> NoReturn:
            kept = {0, 1, 2, *pass_fds}
            for descriptor in [int(one.name) for one in Path("/proc/self/fd").iterdir()]:
                if descriptor not in kept:
                    with suppress(OSError):  # the one that listed them
                        os.close(descriptor)
            _run(worker.main)

        return await start(*command, pass_fds=pass_fds, preexec_fn=become, **settings)

    return fork


if __name__ == "__main__":
    main()
