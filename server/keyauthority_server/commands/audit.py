"""`audit verify` and `audit refused`: the evidence, read on the machine itself."""

from __future__ import annotations

import asyncio
from datetime import UTC
from pathlib import Path

import click

from keyauthority_server.audit import HeadError, SavedHead, Verified
from keyauthority_server.audit import verify as verify_log
from keyauthority_server.commands.options import STORE, load, options
from keyauthority_server.commands.output import say
from keyauthority_server.config import Config, ConfigError
from keyauthority_server.runtime import bootstrap
from keyauthority_server.store.sql.queries.denied_mutations import REFUSED_KEPT
from keyauthority_server.store.types import DeniedMutation


@click.group("audit")
def audit_group() -> None:
    """Verify the log of all changes, and show what was refused."""


@audit_group.command()
@click.option("--head", metavar="FILE", help="A head saved before: the log must hold it.")
@click.option("--save-head", metavar="FILE", help="Save the head of a log that is whole.")
@options(*STORE)
def verify(head: str | None, save_head: str | None, **flags: str | bool | None) -> int:
    """Verify every entry of the log, and the keys and projects that it made.

    Prints each finding with its revision and exits 1; exits 0 if there is none. A server may run.
    """
    settings = load(flags)
    try:
        saved = SavedHead.load(Path(head)) if head else None
        verified = asyncio.run(_verified(settings, saved))
        for revision, what in verified.findings:
            say(f"revision {revision}: {what}")
        if verified.findings:
            say(f"{len(verified.findings)} findings: the log is not as it was written")
            return 1
        if save_head:
            verified.head.save(Path(save_head))
    except HeadError as failure:
        raise ConfigError(str(failure)) from failure
    say(f"log {verified.head.log_id} is whole up to revision {verified.head.revision}")
    return 0


@audit_group.command()
@click.option(
    "--limit", type=click.IntRange(1, REFUSED_KEPT), default=100, show_default=True, metavar="N"
)
@options(*STORE)
def refused(limit: int, **flags: str | bool | None) -> None:
    """Show the newest mutations that were refused, oldest first."""
    for one in asyncio.run(_refused(load(flags), limit)):
        named = {"project_id": one.project_id, "access_key": one.access_key}
        words = [
            one.time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            f"{one.times}x",
            *(one.actor, one.peer, one.method, one.reason),
            *(f"{name}={text}" for name, text in named.items() if text),
        ]
        say(" ".join(words))


async def _verified(settings: Config, saved: SavedHead | None) -> Verified:
    async with bootstrap.open_audit(settings) as (store, audit_key):
        return await verify_log(store, audit_key, saved)


async def _refused(settings: Config, limit: int) -> list[DeniedMutation]:
    async with bootstrap.open_audit(settings) as (store, _):
        return list(await store.list_refused(limit))
