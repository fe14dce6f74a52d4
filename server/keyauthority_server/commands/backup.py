"""`backup` and `restore`: a copy of the database, and the way back."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from keyauthority_server.bootstrap import reported
from keyauthority_server.commands.options import STORE, load, options
from keyauthority_server.commands.output import say
from keyauthority_server.restoring import Restored
from keyauthority_server.restoring import restore as restore_store
from keyauthority_server.store.sqlite_backup import Content, back_up
from keyauthority_server.supervisor import hold_folder

NICE: Final = 10  # servers come first
LISTED: Final = 20  # access keys of a kind; the rest are counted


@click.command()
@click.argument("file")
@options(*STORE)
def backup(file: str, **flags: str | bool | None) -> None:
    """Copy the database to FILE, while servers run, and check the copy.

    FILE must not be there. The pepper and the audit key are not in it: keep them elsewhere.
    """
    settings = load(flags)
    os.nice(NICE)
    with reported():
        content = back_up(settings.store.sqlite_path, Path(file).absolute())
    say(_line(content))
    say("the pepper and audit.key are not in it: keep copies of them elsewhere", err=True)


@click.command()
@click.argument("file")
@click.option("--accept-unknown", is_flag=True, help="Restore, even if revocations are unknown.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and restore nothing.")
@options(*STORE)
def restore(file: str, accept_unknown: bool, dry_run: bool, **flags: str | bool | None) -> None:
    """Put the backup FILE in place of the database; no server may run.

    What the present database knows to be revoked or rotated stays so. It is kept aside.
    """
    settings = load(flags)
    with hold_folder(settings.data):
        restored = restore_store(
            settings, Path(file).absolute(), accept_unknown=accept_unknown, dry_run=dry_run
        )
    for line in _told(restored):
        say(line)
    if dry_run:
        say("nothing was restored")
        return
    if restored.aside is not None:
        say(f"the database that was there is kept as {restored.aside}")
    say(_line(restored.content))


def _line(content: Content) -> str:
    return f"log_id={content.log_id} revision={content.revision} keys={content.keys}"


def _told(restored: Restored) -> list[str]:
    undone = restored.undone
    counts = (
        (undone.disabled_keys, "keys that were disabled since are enabled"),
        (undone.shortened_keys, "keys that were to expire earlier go back to their old expiry"),
        (undone.narrowed_keys, "keys go back to their old permissions or restrictions"),
        (undone.suspended_projects, "projects that were suspended since are not"),
        (undone.lost_projects, "projects that were made since are lost"),
    )
    return [
        f"the backup is of log {restored.backup.log_id}, revision {restored.backup.revision}",
        *([f"revocations since then are unknown: {restored.unknown}"] * bool(restored.unknown)),
        *_listed(restored.revoked, "revocations would have been undone, and are kept"),
        *_listed(restored.rotated, "rotations would have been undone, and are kept"),
        *_listed(restored.lost, "keys were made since then, and are lost"),
        *(f"{count} {what}" for count, what in counts if count),
    ]


def _listed(access_keys: Sequence[str], what: str) -> list[str]:
    if not access_keys:
        return []
    more = len(access_keys) - LISTED
    return [
        f"{len(access_keys)} {what}:",
        *(f"  {access_key}" for access_key in access_keys[:LISTED]),
        *([f"  and {more} more"] if more > 0 else []),
    ]
