"""`pepper`: rotation of the secret that digests are made under, beside a server that may run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import click

from keyauthority_server.commands.options import STORE, Flags, load, options
from keyauthority_server.commands.output import say
from keyauthority_server.runtime.bootstrap import AdminSession, open_admin
from keyauthority_server.services import pepper_rotation
from keyauthority_server.services.pepper_rotation import DropRefused, Version, droppable
from keyauthority_server.store.clocks import clock_of

T = TypeVar("T")


@click.group("pepper")
def pepper_group() -> None:
    """Rotate the pepper, the secret that digests of tokens are made under."""


@pepper_group.command()
@options(*STORE)
@click.option("--prepare", is_flag=True, help="Only add it to the file: copy that to all servers.")
def rotate(*, prepare: bool, **flags: str | bool | None) -> None:
    """Add a version to the file `pepper` and put it to use, or the one that waits."""

    async def work(machine: AdminSession) -> int:
        return await pepper_rotation.rotate(
            machine.store, machine.peppers, machine.known, prepare=prepare
        )

    version = _on_machine(flags, work)
    state = "waits for pepper rotate" if prepare else "is the current one"
    say(f"version {version} {state}")


@pepper_group.command()
@options(*STORE)
def status(**flags: str | bool | None) -> None:
    """Show each version, what was made under it, and whether it may be dropped."""

    async def work(machine: AdminSession) -> list[Version]:
        now = (await clock_of(machine.store)).now()
        return list(
            await pepper_rotation.status(machine.store, machine.peppers, machine.known, now)
        )

    versions = _on_machine(flags, work)
    say(_LINE.format("version", "state", "keys", "over", "sealed", "may be dropped"))
    for one in versions:
        made = one.digests
        say(
            _LINE.format(
                one.number, one.state, made.needing, made.over, made.sealed, droppable(one)
            )
        )


@pepper_group.command()
@options(*STORE)
@click.argument("version", type=click.IntRange(min=1))
def drop(version: int, **flags: str | bool | None) -> None:
    """Drop a VERSION that no key needs any more, from the database and the file."""

    async def work(machine: AdminSession) -> bool:
        now = (await clock_of(machine.store)).now()
        return await pepper_rotation.drop(machine.store, machine.peppers, version, now)

    dropped = _on_machine(flags, work)
    say(f"version {version} {'is dropped' if dropped else 'is removed from the file'}")


_LINE = "{:>7}  {:<8}{:>10}{:>10}{:>8}  {}"


def _on_machine(flags: Flags, work: Callable[[AdminSession], Awaitable[T]]) -> T:
    settings = load(flags)

    async def run() -> T:
        async with open_admin(settings) as machine:
            return await work(machine)

    try:
        return asyncio.run(run())
    except DropRefused as refused:
        raise click.ClickException(str(refused)) from refused
