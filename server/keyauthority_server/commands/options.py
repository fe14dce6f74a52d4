"""The flags that commands share, and the configuration that they make."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from keyauthority_server import config, logs
from keyauthority_server.config import Config

Flags = dict[str, str | bool | None]

_Command = TypeVar("_Command", bound=Callable[..., Any])

STORE: Final = (
    click.option("--config", metavar="FILE", help="TOML file; its keys are the flags with _."),
    click.option("--data", metavar="DIR", help="Data folder.  [default: ./keyauthority-data]"),
    click.option(
        "--store", metavar="URL", help="sqlite:///PATH or postgresql://…  [in the data folder]"
    ),
    click.option("--store-file", metavar="FILE", help="File that holds the URL of the store."),
    click.option("--log-format", metavar="text|json", help="[default: text]"),
    click.option("--log-level", metavar="debug|info|warning|error", help="[default: info]"),
)
SERVE: Final = (
    click.option(
        "--listen", metavar="HOST:PORT|unix:PATH", help="Port 0 picks one.  [127.0.0.1:50051]"
    ),
    click.option("--socket-mode", metavar="MODE", help="Of a unix socket.  [default: 0666]"),
    click.option(
        "--must-exist", is_flag=True, help="Refuse a data folder or store that is new or empty."
    ),
    click.option("--workers", metavar="N", help="Processes; 0 = one a core.  [default: 1]"),
    click.option("--transport", metavar="auto|native|grpcio", help="[default: auto]"),
    click.option("--tls-cert", metavar="FILE", help="Serve TLS with this certificate chain (PEM)."),
    click.option("--tls-key", metavar="FILE", help="Its key, readable by the server's user only."),
    click.option(
        "--tls-client-ca", metavar="FILE", help="Demand client certificates of these authorities."
    ),
    click.option("--allow-plaintext", is_flag=True, help="Serve plaintext beyond this machine."),
    click.option("--metrics", metavar="HOST:PORT", help="Serve Prometheus metrics over HTTP."),
    click.option(
        "--max-staleness",
        metavar="SPAN",
        help="With PostgreSQL no answer is older: 1s, 500ms.  [default: 1s]",
    ),
    click.option("--no-reflection", is_flag=True, help="Do not describe the services to clients."),
)


def options(*flags: Callable[[_Command], _Command]) -> Callable[[_Command], _Command]:
    """Give a command these flags, in this order in its help."""

    def add(command: _Command) -> _Command:
        for flag in reversed(flags):
            command = flag(command)
        return command

    return add


def load(flags: Flags) -> Config:
    """Return the configuration in force, and log as it says from now on; else ConfigError."""
    given = {
        name: str(flag).lower() if isinstance(flag, bool) else flag
        for name, flag in flags.items()
        if flag is not None and flag is not False  # not given: the layers below have their say
    }
    settings = config.load(given, os.environ)
    logs.configure(settings.log_format, settings.log_level)
    return settings
