"""Worker processes: started by exec, restarted after a death, drained at the end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Sequence
from typing import Final

import structlog

from keyauthority_server.config import Config, ConfigError
from keyauthority_server.metrics.endpoint import MetricsAggregator

DRAIN_MAX_SECONDS: Final = 38  # 30 for a worker to drain, 5 to close its store, 3 for traces
LOOP_DEATHS: Final = 5  # deaths of one worker
LOOP_SECONDS: Final = 30  # within this time are a crash loop
BACKOFF_SECONDS: Final = 0.1  # before the first replacement; doubles with each death in the window
RESTART_SECONDS: Final = 1.0  # until the next attempt to start a worker
REPORT_BYTES_MAX: Final = 1024 * 1024  # one report; with all methods it has some 10 KB

_log = structlog.get_logger(__name__)


class CrashLoop(Exception):
    """A worker keeps dying after each start."""


class Supervisor:
    """Runs the workers of one configuration until SIGTERM or SIGINT."""

    def __init__(
        self,
        config: Config,
        announced: Sequence[str],
        inherited: Sequence[int],
        metrics: MetricsAggregator,
    ) -> None:
        """`announced` is printed when all workers serve, a line each.

        `inherited` are lock descriptors: they stay locked while any worker lives.
        """
        self._config = config
        self._announced = announced
        self._inherited = tuple(inherited)
        self._metrics = metrics
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._serving: set[int] = set()
        self._restarts = 0
        self._started = False
        self._refusal: str | None = None
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then drain.

        Raises ConfigError if a worker refuses to start, CrashLoop if one keeps dying.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._handle_signal)
        slots = [asyncio.create_task(self._keep(slot)) for slot in range(self._config.workers)]
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait([*slots, stopping], return_when=asyncio.FIRST_COMPLETED)
        self._stopping.set()
        _log.info("stopping")
        self._signal_workers(signal.SIGTERM)
        _done, late = await asyncio.wait(slots, timeout=DRAIN_MAX_SECONDS)
        if late:
            _log.error("workers_late", workers=len(late))
            self._signal_workers(signal.SIGKILL)
        for result in await asyncio.gather(*slots, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    def _handle_signal(self) -> None:
        if self._stopping.is_set():  # the second signal skips the drain
            self._signal_workers(signal.SIGKILL)
        self._stopping.set()

    def _signal_workers(self, number: signal.Signals) -> None:
        for process in self._processes.values():
            process.send_signal(number)

    async def _keep(self, slot: int) -> None:
        """Run one worker, and restart it after each death."""
        deaths: deque[float] = deque(maxlen=LOOP_DEATHS)
        while not self._stopping.is_set():
            try:
                code = await self._run_worker(slot)
            except OSError as failure:  # no descriptors or memory left: the other workers continue
                if not self._started:
                    raise
                _log.error("worker_not_started", worker=slot, reason=str(failure))
                await self._wait(RESTART_SECONDS)
                continue
            if self._stopping.is_set():
                return
            if self._refusal and not self._started:
                raise ConfigError(self._refusal)
            now = time.monotonic()
            deaths.append(now)
            recent = sum(now - death < LOOP_SECONDS for death in deaths)
            _log.error("worker_ended", worker=slot, exit_code=code, deaths=recent)
            if recent == LOOP_DEATHS:
                raise CrashLoop(f"worker {slot} ended {recent} times in {LOOP_SECONDS} s")
            self._restarts += 1
            await self._wait(BACKOFF_SECONDS * 2 ** (recent - 1))

    async def _wait(self, seconds: float) -> None:
        """Wait, or return early when the server stops."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    async def _run_worker(self, slot: int) -> int:
        """Start a worker, read its reports until it ends, and return its exit code."""
        environ = {  # settings may contain a password, readable in /proc by this user
            name: text for name, text in os.environ.items() if not name.startswith("KEYAUTHORITY_")
        }
        # Otherwise grpcio writes an unformatted line for each failed handshake.
        environ.setdefault("GRPC_VERBOSITY", "NONE")
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-P", "-m", "keyauthority_server.runtime.worker"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=self._inherited,
            env=environ,
            limit=REPORT_BYTES_MAX,
        )
        self._processes[slot] = process
        self._metrics.started(slot, process.pid)
        if self._stopping.is_set():
            process.terminate()
        try:
            assert process.stdin  # noqa: S101 - requested as a pipe
            assert process.stdout  # noqa: S101 - as above
            order = {"worker": slot, "settings": self._config.settings()}
            process.stdin.write(json.dumps(order).encode() + b"\n")
            async for line in process.stdout:
                self._handle_report(slot, process.pid, json.loads(line))
            return await process.wait()
        finally:
            self._serving.discard(slot)
            self._count_workers()
            self._metrics.ended(slot)
            del self._processes[slot]

    def _handle_report(self, slot: int, pid: int, report: dict[str, object]) -> None:
        match report:
            case {"ready": transport}:
                _log.info("worker_serves", worker=slot, pid=pid, transport=transport)
                self._serving.add(slot)
                self._count_workers()
                self._announce()
            case {"refused": str(reason)}:
                self._refusal = reason
                _log.error("worker_refused", worker=slot, reason=reason)
            case {"counts": counts}:
                self._metrics.add(slot, counts)  # type: ignore[arg-type]  # from Metrics.take

    def _announce(self) -> None:
        if not self._started and len(self._serving) == self._config.workers:
            self._started = True
            for line in self._announced:
                print(f"keyauthority-server {line}", flush=True)  # noqa: T201

    def _count_workers(self) -> None:
        self._metrics.workers(len(self._serving), self._restarts)
