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
    settings = load(flags)
    for name, text in settings.shown().items():
        if name != "callers":
            click.echo(f"{name} = {json.dumps(text)}")
    for caller in settings.callers:
        click.echo("\n[[callers]]")
        for field, value in caller.table().items():
            click.echo(f"{field} = {json.dumps(value)}")
