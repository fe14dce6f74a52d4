"""`audit verify` and `audit refused`: read the log on the server's machine."""

from __future__ import annotations

import asyncio
from datetime import UTC
from pathlib import Path

import click

from keyauthority_server.audit import HeadError, Verified, load_head
from keyauthority_server.audit import save_head as save_head_to
from keyauthority_server.audit import verify as verify_log
from keyauthority_server.commands.options import STORE, load, options
from keyauthority_server.commands.output import say
from keyauthority_server.config import Config, ConfigError
from keyauthority_server.runtime import bootstrap
from keyauthority_server.store.sql.queries.denied_mutations import DENIALS_KEPT, list_denials
from keyauthority_server.store.types import DeniedMutation, LogHead


@click.group("audit")
def audit_group() -> None:
    """Verify the log of all changes, and show denied mutations."""


@audit_group.command()
@click.option("--head", metavar="FILE", help="Saved head that the log must contain.")
@click.option("--save-head", metavar="FILE", help="Save the head here if the log is intact.")
@options(*STORE)
def verify(head: str | None, save_head: str | None, **flags: str | bool | None) -> None:
    """Verify the log, and the keys and projects that it created.

    Prints each finding with its revision, and exits with 1 if there is one. A server may run.
    """
    settings = load(flags)
    try:
        saved = load_head(Path(head)) if head else None
        verified = asyncio.run(_verified(settings, saved))
        for revision, finding in verified.findings:
            say(f"revision {revision}: {finding}")
        if verified.findings:
            number = len(verified.findings)
            found = "1 finding" if number == 1 else f"{number} findings"
            raise click.ClickException(f"the log was altered: {found}")
        if save_head:
            save_head_to(verified.head, Path(save_head))
    except HeadError as failure:
        raise ConfigError(str(failure)) from failure
    say(f"log {verified.head.log_id} is intact up to revision {verified.head.revision}")


@audit_group.command()
@click.option(
    "--limit",
    type=click.IntRange(1, DENIALS_KEPT),
    default=100,
    show_default=True,
    metavar="N",
    help="Number of mutations to show.",
)
@options(*STORE)
def refused(limit: int, **flags: str | bool | None) -> None:
    """Show the newest denied mutations, oldest first."""
    for denial in asyncio.run(_refused(load(flags), limit)):
        subject = {"project_id": denial.project_id, "access_key": denial.access_key}
        words = [
            denial.time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            f"{denial.times}x",
            *(denial.actor, denial.peer, denial.method, denial.reason),
            *(f"{name}={text}" for name, text in subject.items() if text),
        ]
        say(" ".join(words))


async def _verified(settings: Config, saved: LogHead | None) -> Verified:
    async with bootstrap.open_audit(settings) as (store, audit_key):
        return await verify_log(store, audit_key, saved)


async def _refused(settings: Config, limit: int) -> list[DeniedMutation]:
    async with bootstrap.open_audit(settings) as (store, _):
        return list(await store.query(list_denials, limit))
