"""`keyauthority watch`: changes as they are committed."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import click
from google.protobuf.json_format import MessageToJson

from keyauthority.cli.output import time_text
from keyauthority.cli.session import connected, settings, wants_json
from keyauthority.convert import watch_update_to_proto
from keyauthority.model import Change
from keyauthority.results import WatchUpdate
from keyauthority.text import one_line


@click.command()
@click.option("--project-id", default="", help="Unless given, all that you may see.")
@click.option(
    "--from-revision",
    type=click.IntRange(min=0),
    help="Behind this one; unless given, from now on.",
)
@click.option("--log-id", default="", help="The log that --from-revision counts in.")
@click.option("--snapshot", is_flag=True, help="Print first all that there is.")
@settings
def watch(project_id: str, from_revision: int | None, log_id: str, snapshot: bool) -> None:
    """Print changes as they are committed, a line each, until it is interrupted.

    With --json a line for each message, those without changes included, which come several times a
    second. It fails when the authority says that changes may have been missed.
    """
    with (
        _interruptible(),
        connected() as authority,
        authority.watch_changes(
            project_id, from_revision=from_revision, log_id=log_id, snapshot=snapshot
        ) as updates,
    ):
        for update in updates:
            _print(update)
            if update.resync:
                raise click.ClickException("changes may have been missed: begin anew")


@contextmanager
def _interruptible() -> Iterator[None]:
    """End what is inside, and no more than that, when the process is told to end."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)


def _print(update: WatchUpdate) -> None:
    if wants_json():
        message = watch_update_to_proto(update)
        click.echo(MessageToJson(message, always_print_fields_with_no_presence=True, indent=None))
        return
    for change in update.changes:
        click.echo("  ".join(filter(None, map(one_line, _words(change)))))


def _words(change: Change) -> Iterator[str]:
    yield str(change.revision)
    yield time_text(change.time)
    yield change.type.value
    if change.project is not None:
        yield change.project.display_name
        yield "suspended" if change.project.suspended else ""
    for key in change.keys:
        yield key.access_key
        yield key.state.value if key.state else ""
    if change.project_id:
        yield f"project_id={change.project_id}"
