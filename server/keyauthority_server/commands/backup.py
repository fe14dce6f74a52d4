"""`backup` copies the database; `restore` replaces it with a backup."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from keyauthority_server.commands.options import NICE, STORE, load, options
from keyauthority_server.commands.output import say
from keyauthority_server.runtime.bootstrap import reported
from keyauthority_server.runtime.restore import Restored
from keyauthority_server.runtime.restore import restore as restore_store
from keyauthority_server.runtime.supervisor import hold_folder
from keyauthority_server.store.sqlite.backup import Content, back_up

LISTED: Final = 20  # names per heading; --json has all of them


@click.command()
@click.argument("file")
@options(*STORE)
def backup(file: str, **flags: str | bool | None) -> None:
    """Copy the database to FILE and check the copy; servers may run.

    FILE must not exist. It does not contain the pepper and the audit key: keep copies elsewhere.
    """
    settings = load(flags)
    os.nice(NICE)
    with reported():
        content = back_up(settings.store.sqlite_path, Path(file).absolute())
    say(_line(content))
    say("the backup lacks the pepper and audit.key: keep copies of them elsewhere", err=True)


@click.command()
@click.argument("file")
@click.option(
    "--accept-unknown", is_flag=True, help="Restore even if later revocations are unknown."
)
@click.option("--dry-run", is_flag=True, help="Print the report without restoring.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with all names.")
@options(*STORE)
def restore(
    file: str, accept_unknown: bool, dry_run: bool, as_json: bool, **flags: str | bool | None
) -> None:
    """Replace the database with the backup FILE; no server may run.

    Keys that the present database has as revoked or rotated stay so. The present database is
    renamed, not deleted. Review the keys and projects listed: they return to wider settings.
    """
    settings = load(flags)
    with hold_folder(settings.data):
        restored = restore_store(
            settings, Path(file).absolute(), accept_unknown=accept_unknown, dry_run=dry_run
        )
    if as_json:
        click.echo(json.dumps(_object(restored, dry_run=dry_run), indent=2))
        return
    for line in _report(restored):
        say(line)
    if dry_run:
        say("nothing was restored")
        return
    if restored.aside is not None:
        say(f"the previous database is kept as {restored.aside}")
    say(_line(restored.content))


def _object(restored: Restored, *, dry_run: bool) -> dict[str, object]:
    """Return the JSON report of a restore, with every name."""
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


def _report(restored: Restored) -> list[str]:
    undone = restored.undone
    sections = (
        (restored.revoked, "revocations after the backup are kept"),
        (restored.rotated, "rotations after the backup are kept"),
        (restored.lost, "keys were created after the backup, and are lost"),
        (undone.disabled_keys, "keys disabled after the backup are enabled: disable them again"),
        (
            undone.shortened_keys,
            "keys with an expiry shortened after the backup get back the old one",
        ),
        (undone.narrowed_keys, "keys get back their old permissions, restrictions or limits"),
        (
            undone.suspended_projects,
            "projects suspended after the backup are active: suspend them again",
        ),
        (undone.lost_projects, "projects were created after the backup, and are lost"),
    )
    return [
        f"the backup is of log {restored.backup.log_id}, revision {restored.backup.revision}",
        *(
            [f"revocations after the backup are unknown: {restored.unknown}"]
            * bool(restored.unknown)
        ),
        *(line for names, heading in sections for line in _section(names, heading)),
    ]


def _section(names: Sequence[str], heading: str) -> list[str]:
    if not names:
        return []
    more = len(names) - LISTED
    return [
        f"{len(names)} {heading}:",
        *(f"  {name}" for name in names[:LISTED]),
        *([f"  and {more} more"] if more > 0 else []),
    ]
