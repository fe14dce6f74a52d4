"""Flags shared by commands, and the configuration built from them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from keyauthority_server import config, logs
from keyauthority_server.config import Config

Flags = dict[str, str | bool | None]

_Command = TypeVar("_Command", bound=Callable[..., Any])

NICE: Final = 10  # of commands that work for long: a lower priority than servers

STORE: Final = (
    click.option(
        "--config",
        metavar="FILE",
        help="TOML file; keys are flag names with _, such as log_format.",
    ),
    click.option("--data", metavar="DIR", help="Data folder.  [default: ./keyauthority-data]"),
    click.option(
        "--store",
        metavar="URL",
        help="sqlite:///PATH or postgresql://…  [default: in the data folder]",
    ),
    click.option("--store-file", metavar="FILE", help="File that contains the store URL."),
    click.option("--log-format", metavar="text|json", help="Log format.  [default: text]"),
    click.option(
        "--log-level",
        metavar="debug|info|warning|error",
        help="Least severe level logged.  [default: info]",
    ),
)
ISSUE: Final = (
    click.option(
        "--token-prefix",
        metavar="PREFIX",
        help="Prefix of new tokens, such as acme for acme_sk_live_…  [default: none]",
    ),
)
SERVE: Final = (
    click.option(
        "--listen",
        metavar="HOST:PORT|unix:PATH",
        help="Address; port 0 picks a free port.  [default: 127.0.0.1:50051]",
    ),
    click.option("--socket-mode", metavar="MODE", help="Mode of a unix socket.  [default: 0666]"),
    click.option(
        "--must-exist", is_flag=True, help="Fail if the data folder or store is new or empty."
    ),
    click.option(
        "--workers", metavar="N", help="Worker processes; 0 = one per core.  [default: 1]"
    ),
    click.option(
        "--transport", metavar="auto|native|grpcio", help="gRPC transport.  [default: auto]"
    ),
    click.option("--tls-cert", metavar="FILE", help="Certificate chain for TLS (PEM)."),
    click.option(
        "--tls-key", metavar="FILE", help="Private key, readable by the server's user only."
    ),
    click.option(
        "--tls-client-ca",
        metavar="FILE",
        help="CA certificates; client certificates become mandatory.",
    ),
    click.option(
        "--allow-plaintext", is_flag=True, help="Permit plaintext on addresses other than loopback."
    ),
    click.option("--http", metavar="HOST:PORT", help="Address for JSON over HTTP.  [default: off]"),
    click.option(
        "--metrics",
        metavar="HOST:PORT",
        help="Address for Prometheus metrics over HTTP.  [default: off]",
    ),
    click.option(
        "--max-staleness",
        metavar="SPAN",
        help="Maximum age of an answer on PostgreSQL: 1s, 500ms.  [default: 1s]",
    ),
    click.option("--no-reflection", is_flag=True, help="Disable gRPC server reflection."),
)


def options(*flags: Callable[[_Command], _Command]) -> Callable[[_Command], _Command]:
    """Return a decorator that adds flags to a command, in this order in its help."""

    def add(command: _Command) -> _Command:
        for flag in reversed(flags):
            command = flag(command)
        return command

    return add


def load(flags: Flags) -> Config:
    """Return the effective configuration and configure logging; raises ConfigError."""
    overrides = {
        name: str(flag).lower() if isinstance(flag, bool) else flag
        for name, flag in flags.items()
        if flag is not None and flag is not False  # absent: the environment or the file decides
    }
    settings = config.load(overrides, os.environ)
    logs.configure(settings.log_format, settings.log_level)
    return settings
