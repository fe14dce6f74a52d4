"""The command line `keyauthority-server`.

Exit codes: 0 done, 1 failed, 2 refused: bad usage or configuration, told in one line.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import sys
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click
import structlog

from keyauthority_server import bootstrap, config, logs
from keyauthority_server.config import Config, ConfigError
from keyauthority_server.metrics import endpoint
from keyauthority_server.store.base import StoreError
from keyauthority_server.store.sqlite import affected_library
from keyauthority_server.store.sqlite import migrate as migrate_store
from keyauthority_server.supervisor import CrashLoop, Supervisor, hold_address, hold_folder

_Command = TypeVar("_Command", bound=Callable[..., Any])

_STORE_OPTIONS: Final = (
    click.option("--config", metavar="FILE", help="TOML file; its keys are the flags with _."),
    click.option("--data", metavar="DIR", help="Data folder.  [default: ./keyauthority-data]"),
    click.option("--store", metavar="URL", help="sqlite:///PATH  [default: in the data folder]"),
    click.option("--store-file", metavar="FILE", help="File that holds the URL of the store."),
    click.option("--log-format", metavar="text|json", help="[default: text]"),
    click.option("--log-level", metavar="debug|info|warning|error", help="[default: info]"),
)
_SERVE_OPTIONS: Final = (
    click.option(
        "--listen", metavar="HOST:PORT|unix:PATH", help="Port 0 picks one.  [127.0.0.1:50051]"
    ),
    click.option("--workers", metavar="N", help="Processes; 0 = one a core.  [default: 1]"),
    click.option("--transport", metavar="auto|native|grpcio", help="[default: auto]"),
    click.option("--allow-plaintext", is_flag=True, help="Serve plaintext beyond this machine."),
    click.option("--metrics", metavar="HOST:PORT", help="Serve Prometheus metrics over HTTP."),
    click.option("--no-reflection", is_flag=True, help="Do not describe the services to clients."),
)

_log = structlog.get_logger("keyauthority_server")


def _options(*options: Callable[[_Command], _Command]) -> Callable[[_Command], _Command]:
    def add(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Issue, revoke and verify API keys.

    Each flag can also be set by the environment, --log-format as KEYAUTHORITY_LOG_FORMAT, and in
    the file that --config names. Flags win over the environment, and that over the file.
    """


@cli.command()
@_options(*_STORE_OPTIONS, *_SERVE_OPTIONS)
def serve(**flags: str | bool | None) -> None:
    """Serve until SIGTERM."""
    settings = _load(flags)
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


@cli.command()
@_options(*_STORE_OPTIONS)
def init(**flags: str | bool | None) -> None:
    """Make the data folder ready: keys, store, first operator key, first project."""
    settings = _load(flags)
    with hold_folder(settings.data):
        asyncio.run(bootstrap.prepare(settings))
    click.echo(f"{settings.data} is ready")


@cli.command()
@_options(*_STORE_OPTIONS)
def migrate(**flags: str | bool | None) -> None:
    """Bring the store up to the schema of this version."""
    settings = _load(flags)
    with hold_folder(settings.data):
        try:
            migrate_store(settings.store.sqlite_path)
        except StoreError as failure:
            raise ConfigError(str(failure)) from failure
    click.echo(f"{settings.store} is up to date")


@cli.group("config")
def config_group() -> None:
    """Look at the configuration."""


@config_group.command()
@_options(*_STORE_OPTIONS, *_SERVE_OPTIONS)
def show(**flags: str | bool | None) -> None:
    """Print the settings in force, without passwords, as they would stand in the file."""
    for name, text in _load(flags).shown().items():
        click.echo(f"{name} = {json.dumps(text)}")


def _load(flags: dict[str, str | bool | None]) -> Config:
    given = {
        name: str(flag).lower() if isinstance(flag, bool) else flag
        for name, flag in flags.items()
        if flag is not None and flag is not False  # not given: the layers below have their say
    }
    settings = config.load(given, os.environ)
    logs.configure(settings.log_format, settings.log_level)
    return settings


def main() -> None:
    """Run the command line and exit."""
    try:
        code = cli.main(prog_name="keyauthority-server", standalone_mode=False)
    except click.ClickException as error:
        code = _told(error.format_message(), 2)
    except ConfigError as error:
        code = _told(str(error), 2)
    except CrashLoop as error:
        code = _told(str(error), 1)
    except click.Abort:
        code = 1
    sys.exit(code)


def _told(message: str, code: int) -> int:
    click.echo(f"keyauthority-server: {' '.join(message.split())}", err=True)
    return code


if __name__ == "__main__":
    main()
