"""`config show`: print the effective settings."""

from __future__ import annotations

import json
import re

import click

from keyauthority_server.commands.options import ISSUE, SERVE, STORE, load, options


@click.group("config")
def config_group() -> None:
    """Inspect the configuration."""


@config_group.command()
@options(*STORE, *ISSUE, *SERVE)
def show(**flags: str | bool | None) -> None:
    """Print the effective settings as a TOML file, without passwords."""
    settings = load(flags)
    for name, value in settings.displayed().items():
        click.echo(f"{name} = {_toml(value)}")
    for caller in settings.callers:
        click.echo("\n[[callers]]")
        for field, texts in caller.table().items():
            click.echo(f"{field} = {_toml(texts)}")


def _toml(value: str | int | bool | list[str]) -> str:
    """Return a value as ASCII TOML: JSON, except for DEL and surrogate pairs."""
    text = json.dumps(value, ensure_ascii=False)
    return re.sub(r"[\x7f-\U0010ffff]", lambda match: f"\\U{ord(match[0]):08x}", text)
