"""`serve`: run the supervisor and its workers until they are drained."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import shlex
import signal
import sys
from contextlib import ExitStack
from importlib.metadata import version
from typing import cast

import click
import structlog
from prometheus_client.registry import Collector

from keyauthority.clock import SystemClock
from keyauthority_server import certificates
from keyauthority_server.commands.options import ISSUE, SERVE, STORE, load, options
from keyauthority_server.commands.output import say
from keyauthority_server.config import Config, HostPort
from keyauthority_server.metrics import endpoint
from keyauthority_server.metrics.disk import Disk
from keyauthority_server.metrics.processes import Processes, Server
from keyauthority_server.runtime import bootstrap
from keyauthority_server.runtime.supervisor import Supervisor, hold_address, hold_folder
from keyauthority_server.store import factory
from keyauthority_server.store.patience import when_reachable
from keyauthority_server.store.sqlite.disk_reserve import reserve_path
from keyauthority_server.transport import socket_folder

_log = structlog.get_logger("keyauthority_server")


@click.command()
@options(*STORE, *ISSUE, *SERVE)
def serve(**flags: str | bool | None) -> None:
    """Serve until SIGTERM.

    The server is ready when it prints `keyauthority-server ready on ADDRESS`.
    """
    settings = load(flags)
    if settings.tls:
        certificates.load(settings.tls, SystemClock().now())  # fails before any file is created
    bootstrap.check_exists(settings)
    with bootstrap.reported():
        factory.check_workers(settings.store, settings.workers)
    with ExitStack() as held:
        lock = held.enter_context(hold_folder(settings.data))
        socket_folder.remove_abandoned(settings.data)
        address = held.enter_context(hold_address(settings.listen))
        bound, lines = settings, []
        if settings.http:
            http = held.enter_context(hold_address(settings.http))
            bound = dataclasses.replace(bound, http=cast("HostPort", http.listen))
            lines.append(f"http on {http.display}")
        bound = dataclasses.replace(bound, listen=address.listen)
        lines.append(f"ready on {address.display}")

        async def run() -> None:
            stop = asyncio.Event()
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, stop.set)
            founded = await when_reachable(
                lambda: bootstrap.prepare(settings), settings.store, stop
            )
            if founded:
                welcome(settings, address.display)
            if stop.is_set():
                return
            aggregator = _aggregator(settings)
            await Supervisor(bound, lines, (lock, *address.descriptors), aggregator).run()

        asyncio.run(run())


def _aggregator(settings: Config) -> endpoint.MetricsAggregator:
    """Return the sum of the workers' metrics, served if the settings ask for it."""
    aggregator = endpoint.MetricsAggregator()
    if settings.metrics:
        port = endpoint.serve(settings.metrics, aggregator, *_collectors(settings, aggregator))
        _log.info("metrics", address=str(dataclasses.replace(settings.metrics, port=port)))
    return aggregator


def welcome(settings: Config, address: str | None = None) -> None:
    """Print version, folder and next steps after a first start, on a terminal only.

    `address` is that of the server, None if it does not run yet.
    """
    if not sys.stderr.isatty():
        return
    operator_key = settings.data / bootstrap.OPERATOR_KEY
    listen = re.sub(r"^(0\.0\.0\.0|\[::\]):", "localhost:", address or str(settings.listen))
    variables = {
        "KEYAUTHORITY_ADDRESS": listen,
        "KEYAUTHORITY_OPERATOR_KEY_FILE": str(operator_key),
        **({"KEYAUTHORITY_TLS_CA": "ca.pem"} if settings.tls else {}),
    }
    start = f"  keyauthority-server serve --data {shlex.quote(str(settings.data))}"
    for line in (
        f"keyauthority-server {version('keyauthority')}: new authority created",
        f"  data folder: {settings.data} (back it up: no key verifies without it)",
        f"  first operator key, with all rights: {operator_key}",
        *(["next, with the options given here:", start] if address is None else []),
        "next, in another terminal:" if address else "then, in another terminal:",
        *(f"  export {name}={shlex.quote(value)}" for name, value in variables.items()),
        "  keyauthority projects list",
        "  keyauthority keys create --project-id PROJECT_ID --mode test --kind secret",
    ):
        say(line, err=True)


def _collectors(settings: Config, aggregator: endpoint.MetricsAggregator) -> list[Collector]:
    """Return the collectors of everything that workers do not count."""
    found: list[Collector] = [
        Processes(aggregator.pids),
        Server(settings.store.engine, settings.max_staleness.seconds),
    ]
    if not settings.store.is_postgres:
        found.append(Disk(reserve_path(settings.store.sqlite_path)))
    return found
