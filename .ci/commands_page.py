"""The reference page of all commands and their options, from the programs themselves."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from typing import Final

import click
from rpc_page import cell

from keyauthority.cli.app import authority
from keyauthority_server.commands import cli as server
from keyauthority_server.commands.serving import serve

HEAD: Final = """# Commands

Every command of both programs, with its arguments and options. `make docs` prints this page from
the code. [Command line](command-line.md) has the forms of output, times, and exit codes.
"""
CLIENT: Final = """
## keyauthority

The options of the connection and of the output stand before or after any command.
[Settings](settings.md#command-line) lists them; they are not repeated here.
"""
SERVER: Final = """
## keyauthority-server

`--data`, `--store`, `--store-file` and `--config` choose the data folder and the store.
[Settings](settings.md#server) lists them and the options of `serve`, with their variables.
"""


def page() -> str:
    """Return the page."""
    shared = set(map(_identity, options(authority)))
    parts = [HEAD, CLIENT, *_commands("keyauthority", authority, shared)]
    shared = set(map(_identity, options(serve)))
    parts += [SERVER, *_commands("keyauthority-server", server, shared)]
    return "".join(parts)


def options(command: click.Command) -> Iterator[click.Option]:
    """Yield the options that the help of a command shows."""
    for option in command.params:
        if isinstance(option, click.Option) and not option.hidden:
            yield option


def flag(option: click.Option) -> str:
    """Return the names of an option, and its value."""
    names = ", ".join(option.opts)
    if option.is_flag:
        return names
    context = click.Context(click.Command("keyauthority"))
    return f"{names} {option.make_metavar(context)}"


def meaning(option: click.Option) -> str:
    """Return the help of an option, for a cell of a table."""
    text = " ".join((option.help or "").split())
    text = re.sub(r"\$(KEYAUTHORITY_\w+)", r"`\1`", text)
    return cell(re.sub(r" ?\[default: (.+)\]", r" Default: \1.", text))


def _commands(path: str, command: click.Command, shared: set[tuple[str, str]]) -> Iterator[str]:
    """Yield a section for each command below a group, in the order of the alphabet."""
    if isinstance(command, click.Group):
        for name, below in sorted(command.commands.items()):
            yield from _commands(f"{path} {name}", below, shared)
        return
    context = click.Context(command, info_name=path)
    usage = command.collect_usage_pieces(context)
    shown = [option for option in options(command) if _identity(option) not in shared]
    yield f"\n### {path}\n\n`{' '.join([path, *usage])}`\n\n{_help(command)}\n"
    yield from _table(shown)


def _identity(option: click.Option) -> tuple[str, str]:
    return option.opts[0], option.help or ""


def _help(command: click.Command) -> str:
    """Return the help in paragraphs, each on one line."""
    text = inspect.cleandoc(command.help or "")
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def _table(shown: Sequence[click.Option]) -> Iterator[str]:
    if shown:
        yield "\n| option | meaning |\n|---|---|\n"
    for option in shown:
        required = "Required. " if option.required else ""
        yield f"| `{cell(flag(option))}` | {required}{meaning(option)} |\n"
