"""`pepper`: rotate the secret that keys token digests; a server may run."""

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
    """Rotate the pepper, the secret that keys token digests."""


@pepper_group.command()
@options(*STORE)
@click.option(
    "--prepare",
    is_flag=True,
    help="Add the version to the file only; then copy the file to all servers.",
)
def rotate(*, prepare: bool, **flags: str | bool | None) -> None:
    """Activate a new version of the pepper, or a prepared one.

    A new version is added to the file `pepper` first.
    """

    async def work(session: AdminSession) -> int:
        return await pepper_rotation.rotate(
            session.store, session.peppers, session.key_checks, prepare=prepare
        )

    version = _run(flags, work)
    state = "is waiting: run pepper rotate to activate it" if prepare else "is current"
    say(f"version {version} {state}")


@pepper_group.command()
@options(*STORE)
def status(**flags: str | bool | None) -> None:
    """Show the versions, their keys, and which may be dropped."""

    async def work(session: AdminSession) -> list[Version]:
        now = (await clock_of(session.store)).now()
        return list(
            await pepper_rotation.status(session.store, session.peppers, session.key_checks, now)
        )

    versions = _run(flags, work)
    say(_LINE.format("version", "state", "keys", "over", "sealed", "may be dropped"))
    for entry in versions:
        usage = entry.digests
        counts = (usage.needing, usage.over, usage.sealed)
        say(_LINE.format(entry.number, entry.state, *counts, droppable(entry)))


@pepper_group.command()
@options(*STORE)
@click.argument("version", type=click.IntRange(min=1))
def drop(version: int, **flags: str | bool | None) -> None:
    """Drop a VERSION that no key needs, from the database and the file."""

    async def work(session: AdminSession) -> bool:
        now = (await clock_of(session.store)).now()
        return await pepper_rotation.drop(session.store, session.peppers, version, now)

    dropped = _run(flags, work)
    say(f"version {version} is {'dropped' if dropped else 'removed from the file'}")


_LINE = "{:>7}  {:<8}{:>10}{:>10}{:>8}  {}"


def _run(flags: Flags, work: Callable[[AdminSession], Awaitable[T]]) -> T:
    settings = load(flags)

    async def run() -> T:
        async with open_admin(settings) as session:
            return await work(session)

    try:
        return asyncio.run(run())
    except DropRefused as error:
        raise click.ClickException(str(error)) from error
