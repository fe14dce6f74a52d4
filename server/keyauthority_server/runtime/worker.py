"""One worker process: opens the authority, serves it, and exits on SIGTERM or an orphaned pipe.

The supervisor sends the configuration as one JSON line on standard input, and keeps that pipe open
while it lives. The worker reports JSON lines on standard output: `ready`, then `counts` of its
metrics; or `refused`, with the reason why it must not serve.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, BinaryIO, Final

import structlog

from keyauthority.clock import ClockJumped
from keyauthority.model import VerdictCode
from keyauthority_server import config, logs, tracing
from keyauthority_server.background import running
from keyauthority_server.config import Config, ConfigError, TransientError
from keyauthority_server.metrics import (
    CACHED,
    CERTIFICATE_END,
    CHANGES_ACCEPTED,
    CLOCK_AHEAD,
    OLD_PEPPERS,
    STALENESS,
    Metrics,
)
from keyauthority_server.overload.errors import CloseReason, ShedReason
from keyauthority_server.rpc import services
from keyauthority_server.runtime.bootstrap import open_authority, reported
from keyauthority_server.services import Authority
from keyauthority_server.store.clocks import ClockWatch
from keyauthority_server.store.interface import StoreError, StoreUnavailable
from keyauthority_server.store.patience import when_reachable
from keyauthority_server.transport import HttpServer, Server, loop_factory

if TYPE_CHECKING:
    from keyauthority_server.tracing.exporting import Tracing

DRAIN_SECONDS: Final = 30  # the default grace period of Kubernetes
REPORT_SECONDS: Final = 0.25  # metrics are at most this old
MEASURE_SECONDS: Final = 2  # counting a million keys takes some 80 ms
ADVISORY_SECONDS: Final = 5  # between two counts; each takes 2 % of a core while it runs
SWITCH_SECONDS: Final = 0.0005  # at the default 5 ms, a write waits that long some 30 times
# Collections of middle-aged objects between two of all, which stop the loop: 0.1 s with 10,000
# cached keys. Those are freed without it; a cycle of garbage is young when it is collected.
FULL_COLLECTION: Final = 1_000

_log = structlog.get_logger("keyauthority_server.runtime.worker")


def main() -> None:
    """Serve until the supervisor stops the worker."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # a terminal signals every process; the supervisor handles it
    sys.setswitchinterval(SWITCH_SECONDS)
    report = _redirect_standard_output()
    order = json.loads(sys.stdin.buffer.readline())
    settings = config.parse(order["settings"])
    context = tracing.log_context(os.environ)
    logs.configure(settings.log_format, settings.log_level, context, worker=order["worker"])
    try:
        with reported(), asyncio.Runner(loop_factory=loop_factory(settings)) as runner:
            threading.Thread(target=_exit_with_supervisor, name="lifeline", daemon=True).start()
            runner.run(_serve(settings, order["worker"], report))
    except ConfigError as refusal:
        _send(report, {"refused": str(refusal)})
        sys.exit(2)
    except (StoreUnavailable, TransientError) as failure:
        _log.error("worker_failed", reason=str(failure))
        sys.exit(3)
    except Exception:  # noqa: BLE001 - last resort: log the reason on one line
        _log.exception("worker_failed")
        sys.exit(1)


async def _serve(settings: Config, worker: int, report: BinaryIO) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    verdicts = [code.name for code in VerdictCode]
    metrics = Metrics(verdicts, ShedReason, CloseReason) if settings.metrics else None
    traces = start_tracing(settings, worker)
    async with AsyncExitStack() as opened:
        if traces is not None:
            opened.push_async_callback(traces.close)
        instrument = traces.transactions if traces else None
        authority = await when_reachable(
            lambda: opened.enter_async_context(
                open_authority(settings, checkpoints=worker == 0, instrument=instrument)
            ),
            settings.store,
            stop,
        )
        if authority is None:
            return
        server, ends = _ends(settings, authority, metrics, traces)
        for end in ends:
            await end.start()
        gc.collect()
        gc.freeze()  # objects so far are permanent: later collections skip them
        gc.set_threshold(*gc.get_threshold()[:2], FULL_COLLECTION)
        _send(report, {"ready": server.transport})
        async with (
            _reported(metrics, authority, report),
            running(_measure(worker, metrics, authority, server)),
            running(_count_advisories(metrics if worker == 0 else None, authority)),
        ):
            await stop.wait()
            _log.info("draining")
            await asyncio.gather(*(end.drain(DRAIN_SECONDS) for end in ends))


def start_tracing(settings: Config, worker: int) -> Tracing | None:
    """Start tracing if the environment asks for it; a failure is logged once, by one worker."""
    try:
        return tracing.start(os.environ, settings.store.engine)
    except tracing.TracingUnavailable as failure:
        if worker == 0:
            _log.warning("tracing_off", reason=str(failure))
        return None


def _ends(
    settings: Config, authority: Authority, metrics: Metrics | None, traces: Tracing | None
) -> tuple[Server, list[Server | HttpServer]]:
    """Return the gRPC server, and all servers, with the methods that they serve."""
    methods = services(authority, metrics)
    served = traces.calls(methods, "grpc") if traces else methods
    server = Server(settings, served, metrics, authority.can_answer, lambda: authority.can_change)
    ends: list[Server | HttpServer] = [server]
    if settings.http:
        served = traces.calls(methods, "connectrpc") if traces else methods
        headers = tracing.TRACE_HEADERS if traces else ()
        ends.append(
            HttpServer(
                *(settings, settings.http, served, server.health.is_serving, metrics),
                headers=headers,
            )
        )
    return server, ends


@asynccontextmanager
async def _reported(
    metrics: Metrics | None, authority: Authority, report: BinaryIO
) -> AsyncIterator[None]:
    """Report metrics periodically, and the rest when the context ends."""
    if metrics is None:
        yield
        return
    end = asyncio.Event()
    reporting = asyncio.create_task(_report(metrics, authority, report, end))
    try:
        yield
    finally:
        end.set()
        await reporting


async def _measure(
    worker: int, metrics: Metrics | None, authority: Authority, server: Server
) -> None:
    """Look at the clock, and update the gauges of a worker, every `MEASURE_SECONDS`.

    The first worker counts the keys under old peppers for all.
    """
    clock = ClockWatch(authority.clock)
    while True:
        ahead = clock.look()
        if metrics is not None:
            metrics.gauge(CLOCK_AHEAD, ahead)
            metrics.gauge(CHANGES_ACCEPTED, authority.can_change)
            metrics.gauge(STALENESS, authority.records.staleness)
            metrics.gauge(CACHED, authority.records.keys)
            if server.certificate_end is not None:
                metrics.gauge(CERTIFICATE_END, server.certificate_end.timestamp())
            if worker == 0:
                with contextlib.suppress(StoreError, ClockJumped):  # keeps the previous value
                    metrics.gauge(OLD_PEPPERS, await authority.keys_under_old_peppers())
        await asyncio.sleep(MEASURE_SECONDS)


async def _count_advisories(metrics: Metrics | None, authority: Authority) -> None:
    """Count the advisories, which one worker does for all, every `ADVISORY_SECONDS`."""
    while metrics is not None:
        with contextlib.suppress(StoreError, ClockJumped):  # keeps the previous numbers
            numbers = await authority.advisories.count()
            metrics.advisories({type_.value: number for type_, number in numbers.items()})
        await asyncio.sleep(ADVISORY_SECONDS)


async def _report(
    metrics: Metrics, authority: Authority, report: BinaryIO, end: asyncio.Event
) -> None:
    while not end.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(end.wait(), REPORT_SECONDS)
        metrics.count_cache_events(authority.records.take_counts()._asdict())
        if counts := metrics.take():
            await asyncio.to_thread(_send, report, {"counts": counts})


def _send(report: BinaryIO, message: object) -> None:
    report.write(json.dumps(message).encode() + b"\n")
    report.flush()


def _redirect_standard_output() -> BinaryIO:
    """Return the pipe to the supervisor; later output goes to standard error."""
    report = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return report


def _exit_with_supervisor() -> None:
    """Exit at once when the supervisor ends, even if the event loop is blocked.

    For the store this equals a kill; acknowledged writes are durable.
    """
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
