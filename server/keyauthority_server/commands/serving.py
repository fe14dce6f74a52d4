"""`serve`: the supervisor and its workers, from the configuration to the last drain."""

from __future__ import annotations

import asyncio
import dataclasses

import click
import structlog

from keyauthority_server import bootstrap
from keyauthority_server.commands.options import SERVE, STORE, load, options
from keyauthority_server.config import ConfigError
from keyauthority_server.metrics import endpoint
from keyauthority_server.store.sqlite import affected_library
from keyauthority_server.supervisor import Supervisor, hold_address, hold_folder

_log = structlog.get_logger("keyauthority_server")


@click.command()
@options(*STORE, *SERVE)
def serve(**flags: str | bool | None) -> None:
    """Serve until SIGTERM."""
    settings = load(flags)
    if settings.workers > 1 and affected_library():
        raise ConfigError(
            "this SQLite can corrupt a database that several processes write: install "
            "pysqlite3 0.6.1 or newer, or take --workers 1"
        )
    with hold_folder(settings.data) as lock, hold_address(settings.listen) as address:
        asyncio.run(bootstrap.prepare(settings))
        sums = endpoint.Sums()
        if settings.metrics:
            port = endpoint.serve(settings.metrics, sums)
            _log.info("metrics", address=str(dataclasses.replace(settings.metrics, port=port)))
        told = dataclasses.replace(settings, listen=address.listen)
        inherited = (lock, *address.descriptors)

        async def supervise() -> None:
            await Supervisor(told, address.shown, inherited, sums).run()

        asyncio.run(supervise())
