"""What commands print: each line escaped, since it may hold what others wrote."""

from __future__ import annotations

import click

from keyauthority.text import one_line


def say(line: str, *, err: bool = False) -> None:
    """Print a line. What could break it, or steer the terminal, is written out."""
    click.echo(one_line(line), err=err)
