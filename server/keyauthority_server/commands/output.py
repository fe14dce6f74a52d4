"""Printed lines, escaped because they may contain text from other users."""

from __future__ import annotations

import click

from keyauthority.text import one_line


def say(line: str, *, err: bool = False) -> None:
    """Print one line; line breaks and terminal control characters are escaped."""
    click.echo(one_line(line), err=err)
