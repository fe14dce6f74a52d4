"""The program without the start of an interpreter: forked from a process that imported it.

It runs the program itself, supervisor and workers, each a process of its own. Only exec is
left out, so that thousands of them can be started where one start takes half a second.

`python -m tests.service.forkserver` reads a line of JSON for each: `argv`, `cwd` and `environ`, and
the files for its output, its log and its exit code. It prints the new process.
"""

from __future__ import annotations

import asyncio
import atexit
import ctypes
import gc
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache, wraps
from itertools import count
from pathlib import Path
from typing import Any, Final, NoReturn

from keyauthority_server.commands import main as program
from keyauthority_server.runtime import worker
from tests.service.processes import (
    READY,
    REFUSE_SECONDS,
    STOP_SECONDS,
    Outcome,
    ServerProcess,
    StartFailed,
    children,
    environment,
    port_settings,
    wait_until,
)

_PR_SET_PDEATHSIG: Final = 1
READY_SECONDS: Final = 45  # many times what a busy machine takes
TRIES: Final = 2


class Forked:
    """A process made by the fork server, used in place of `subprocess.Popen`."""

    def __init__(self, pid: int, printed: Path, ended: Path) -> None:
        self.pid = pid
        self._printed = printed
        self._ended = ended

    @property
    def returncode(self) -> int | None:
        """How it ended; None while it lives."""
        text = self._ended.read_text()
        return int(text) if text else None

    @property
    def printed(self) -> str:
        """Its output up to now."""
        return self._printed.read_text()

    def poll(self) -> int | None:
        """None while it lives."""
        return self.returncode

    def has_begun(self) -> bool:
        """True once a server is ready, or has ended."""
        return bool(READY.search(self.printed)) or self.poll() is not None

    def terminate(self) -> None:
        """Ask it to end."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self._send(signal.SIGKILL)

    def communicate(self, timeout: float = STOP_SECONDS) -> tuple[str, str]:
        """Wait for its end; return its output after the ready line."""
        wait_until(lambda: self.returncode is not None, timeout)
        *_, rest = READY.split(self.printed, maxsplit=1)
        return rest, ""

    def _send(self, number: signal.Signals) -> None:
        if self.returncode is None:  # else the number may be another's by now
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)


class ForkServer:
    """Runs the program in processes of their own."""

    def __init__(
        self, process: subprocess.Popen[str], settings: Mapping[str, str], folder: Path
    ) -> None:
        self._process = process
        self._settings = settings
        self._folder = folder
        self._numbers = count(1)
        self._ordering = threading.Lock()

    def start(
        self,
        data: Path,
        *flags: str,
        listen: str = "127.0.0.1:0",
        settings: Mapping[str, str] | None = None,
    ) -> ServerProcess:
        """Start a server, which is the caller's to end, and wait until it is ready.

        A worker is forked from a supervisor whose threads may hold locks at that moment, and can
        hang for ever; one in thousands did. It is tried again then. The program itself uses exec.
        """
        log = data.with_name(data.name + ".log")
        for _ in range(TRIES):
            forked = self._fork(
                "serve", "--data", str(data), "--listen", listen, *flags, log=log, settings=settings
            )
            with suppress(AssertionError):  # the log tells why
                wait_until(forked.has_begun, READY_SECONDS)
            ready = READY.search(forked.printed)
            if ready is not None:
                return ServerProcess(forked, data, log, ready[0], forked.printed[: ready.start()])
            if forked.poll() is not None:
                break
            for pid in (*children(forked.pid), forked.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            wait_until(lambda one=forked: one.poll() is not None)  # type: ignore[misc]
        raise StartFailed(log.read_text())

    def run(self, *arguments: str, settings: Mapping[str, str] | None = None) -> Outcome:
        """Run the program until it ends by itself."""
        log = self._folder / f"{next(self._numbers)}.log"
        forked = self._fork(
            *arguments, log=log, settings={**port_settings(arguments), **(settings or {})}
        )
        wait_until(lambda: forked.poll() is not None, REFUSE_SECONDS)
        assert forked.returncode is not None
        return Outcome(forked.returncode, forked.printed, log.read_text())

    def _fork(self, *argv: str, log: Path, settings: Mapping[str, str] | None) -> Forked:
        number = next(self._numbers)
        printed, ended = self._folder / f"{number}.out", self._folder / f"{number}.end"
        printed.touch()
        ended.touch()
        order = {
            "argv": argv,
            "cwd": str(Path.cwd()),
            "environ": environment({**self._settings, **(settings or {})}),
            "printed": str(printed),
            "log": str(log),
            "ended": str(ended),
        }
        assert self._process.stdin
        assert self._process.stdout
        with self._ordering:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            return Forked(int(self._process.stdout.readline()), printed, ended)


@contextmanager
def forkserver(settings: Mapping[str, str] | None = None) -> Iterator[ForkServer]:
    """Run a fork server. `settings` are environment variables, inherited by its processes."""
    with tempfile.TemporaryDirectory() as folder:
        # A worker that is killed leaves its temporary files behind.
        variables = {"GRPC_VERBOSITY": "NONE", "TMPDIR": folder, **(settings or {})}
        with subprocess.Popen(
            [sys.executable, "-m", "tests.service.forkserver"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(variables),
            text=True,
        ) as process:
            yield ForkServer(process, variables, Path(folder))


@cache
def shared() -> ForkServer:
    """Return the fork server of this pytest process; both end together."""
    ending = ExitStack()
    atexit.register(ending.close)
    return ending.enter_context(forkserver())


def main() -> None:
    """Fork a server for each line of the input, and write down how each has ended."""
    with selectors.DefaultSelector() as selector:
        selector.register(sys.stdin, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.data:
                    selector.unregister(key.fd)
                    _write_end(key.fd, *key.data)
                elif line := sys.stdin.readline():
                    pid, ended = _fork(**json.loads(line))
                    selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, ended))
                    print(pid, flush=True)  # noqa: T201 - the command's output
                else:
                    return


def _fork(ended: str, **order: Any) -> tuple[int, str]:
    pid = os.fork()
    if not pid:
        _become(**order)
    return pid, ended


def _write_end(descriptor: int, pid: int, ended: str) -> None:
    os.close(descriptor)
    Path(ended).write_text(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))


def _become(
    argv: Sequence[str], cwd: str, environ: Mapping[str, str], printed: str, log: str
) -> NoReturn:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # no server outlives the tests
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(os.open(printed, os.O_WRONLY | os.O_APPEND), 1)
    os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), 2)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    asyncio.create_subprocess_exec = _forking(asyncio.create_subprocess_exec)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environ)
    sys.argv = ["keyauthority-server", *argv]
    _run(program)


def _run(main: Callable[[], None]) -> NoReturn:
    """Run the work of a process, and end it, as an interpreter does."""
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
    """Return the function that becomes a worker, where `start` would run another interpreter."""

    @wraps(start)
    async def fork(*command: str, pass_fds: Sequence[int], **settings: Any) -> Any:
        def become() -> NoReturn:
            gc.enable()  # off in a process between fork and exec
            signal.set_wakeup_fd(-1)  # the supervisor's loop has set it, and these
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            for number in (signal.SIGPIPE, signal.SIGXFSZ):  # as an interpreter does at its start
                signal.signal(number, signal.SIG_IGN)
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
