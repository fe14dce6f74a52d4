"""`config show`: the settings in force."""

from __future__ import annotations

import json

import click

from keyauthority_server.commands.options import SERVE, STORE, load, options


@click.group("config")
def config_group() -> None:
    """Look at the configuration."""


@config_group.command()
@options(*STORE, *SERVE)
def show(**flags: str | bool | None) -> None:
    """Print the settings in force, without passwords, as they would stand in the file."""
    for name, text in load(flags).shown().items():
        click.echo(f"{name} = {json.dumps(text)}")
