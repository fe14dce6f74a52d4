"""`config show`: the settings in force."""

from __future__ import annotations

import json
import re

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
    for name, value in settings.shown().items():
        click.echo(f"{name} = {_toml(value)}")
    for caller in settings.callers:
        click.echo("\n[[callers]]")
        for field, texts in caller.table().items():
            click.echo(f"{field} = {_toml(texts)}")


def _toml(value: str | int | bool | list[str]) -> str:
    """Return a value as TOML writes it, in ASCII: as JSON does, but for DEL and pairs."""
    text = json.dumps(value, ensure_ascii=False)
    return re.sub(r"[\x7f-\U0010ffff]", lambda found: f"\\U{ord(found[0]):08x}", text)
