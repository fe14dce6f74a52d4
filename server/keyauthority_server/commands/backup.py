"""`backup` and `restore`: a copy of the database, and the way back."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from keyauthority_server.commands.options import STORE, load, options
from keyauthority_server.commands.output import say
from keyauthority_server.runtime.bootstrap import reported
from keyauthority_server.runtime.restore import Restored
from keyauthority_server.runtime.restore import restore as restore_store
from keyauthority_server.runtime.supervisor import hold_folder
from keyauthority_server.store.sqlite.backup import Content, back_up

NICE: Final = 10  # servers come first
LISTED: Final = 20  # names of a kind; the rest are counted, and in --json


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
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, with all names.")
@options(*STORE)
def restore(
    file: str, accept_unknown: bool, dry_run: bool, as_json: bool, **flags: str | bool | None
) -> None:
    """Put the backup FILE in place of the database; no server may run.

    What the present database knows to be revoked or rotated stays so. It is kept aside. Keys and
    projects that go back to wider settings are named: look at each.
    """
    settings = load(flags)
    with hold_folder(settings.data):
        restored = restore_store(
            settings, Path(file).absolute(), accept_unknown=accept_unknown, dry_run=dry_run
        )
    if as_json:
        click.echo(json.dumps(_object(restored, dry_run=dry_run), indent=2))
        return
    for line in _told(restored):
        say(line)
    if dry_run:
        say("nothing was restored")
        return
    if restored.aside is not None:
        say(f"the database that was there is kept as {restored.aside}")
    say(_line(restored.content))


def _object(restored: Restored, *, dry_run: bool) -> dict[str, object]:
    """Return the report of a restore as JSON has it, with every name."""
    undone = restored.undone
    return {
        "dryRun": dry_run,
        "backup": _content(restored.backup),
        "restored": None if dry_run else _content(restored.content),
        "aside": str(restored.aside) if restored.aside else None,
        "unknown": restored.unknown,
        "revokedKeys": list(restored.revoked),
        "rotatedKeys": list(restored.rotated),
        "lostKeys": list(restored.lost),
        "disabledKeys": list(undone.disabled_keys),
        "shortenedKeys": list(undone.shortened_keys),
        "narrowedKeys": list(undone.narrowed_keys),
        "suspendedProjects": list(undone.suspended_projects),
        "lostProjects": list(undone.lost_projects),
    }


def _content(content: Content) -> dict[str, object]:
    return {"logId": content.log_id, "revision": content.revision, "keys": content.keys}


def _line(content: Content) -> str:
    return f"log_id={content.log_id} revision={content.revision} keys={content.keys}"


def _told(restored: Restored) -> list[str]:
    undone = restored.undone
    names = (
        (restored.revoked, "revocations would have been undone, and are kept"),
        (restored.rotated, "rotations would have been undone, and are kept"),
        (restored.lost, "keys were made since then, and are lost"),
        (undone.disabled_keys, "keys that were disabled since are enabled: disable them again"),
        (undone.shortened_keys, "keys that were to expire earlier go back to their old expiry"),
        (undone.narrowed_keys, "keys go back to their old permissions or restrictions"),
        (undone.suspended_projects, "projects that were suspended since are not: suspend them"),
        (undone.lost_projects, "projects that were made since are lost"),
    )
    return [
        f"the backup is of log {restored.backup.log_id}, revision {restored.backup.revision}",
        *([f"revocations since then are unknown: {restored.unknown}"] * bool(restored.unknown)),
        *(line for listed, what in names for line in _listed(listed, what)),
    ]


def _listed(names: Sequence[str], what: str) -> list[str]:
    if not names:
        return []
    more = len(names) - LISTED
    return [
        f"{len(names)} {what}:",
        *(f"  {name}" for name in names[:LISTED]),
        *([f"  and {more} more"] if more > 0 else []),
    ]
