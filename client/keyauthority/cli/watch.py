"""`keyauthority watch`: prints changes as they are committed."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

import click

from keyauthority.cli.failures import Unanswered
from keyauthority.cli.output import print_json, say, show, time_text
from keyauthority.cli.session import connected, settings, wants_json
from keyauthority.client import Client
from keyauthority.convert import watch_update_to_proto
from keyauthority.errors import DeadlineExceeded, Internal, ResourceExhausted, Unavailable
from keyauthority.model import Change
from keyauthority.results import WatchUpdate
from keyauthority.text import one_line

_ENDED: Final = (Unavailable, DeadlineExceeded, ResourceExhausted, Internal)
_PAUSE: Final = 0.2  # seconds before the stream is reopened; gRPC waits up to 1 s more


@dataclass
class _Position:
    """The position at which the next stream begins."""

    project_id: str
    revision: int | None
    log_id: str
    snapshot: bool
    """True until the whole snapshot has been printed."""
    failures: int | None = None
    """Failures of the stream since its last message; None before the first message."""

    def advance(self, update: WatchUpdate) -> WatchUpdate:
        """Advance past the message, and return it without changes already printed."""
        self.failures = 0
        if update.resync:
            return update
        revision = self.revision
        if revision is not None and not self.snapshot:
            new = tuple(change for change in update.changes if change.revision > revision)
            update = replace(update, changes=new)
        self.log_id = update.log_id
        if update.checkpoint:
            self.revision, self.snapshot = update.revision, False
        elif update.changes and not self.snapshot:
            self.revision = update.changes[-1].revision
        return update


@click.command()
@click.option("--project-id", default="", help="Project ID (default: all visible projects).")
@click.option(
    "--from-revision",
    type=click.IntRange(min=0),
    help="Start after this revision (default: now).",
)
@click.option("--log-id", default="", help="Log of --from-revision.")
@click.option("--snapshot", is_flag=True, help="Print all existing records first.")
@settings
def watch(project_id: str, from_revision: int | None, log_id: str, snapshot: bool) -> None:
    """Print committed changes, one per line, until interrupted.

    If the server restarts or closes the connection, the watch resumes after the last printed
    change. With --json prints one line per message, including messages without changes, which
    arrive several times a second. Fails if changes may have been missed.
    """
    position = _Position(project_id, from_revision, log_id, snapshot)
    with connected() as authority, interruptible():
        while True:
            try:
                _follow(authority, position)
            except _ENDED as error:
                if position.failures is None:
                    raise
                if not position.failures:
                    say(f"keyauthority watch: {one_line(error.message)}; resuming")
                position.failures += 1
            time.sleep(_PAUSE)


def _follow(authority: Client, position: _Position) -> None:
    """Print one stream to its end."""
    with authority.watch_changes(
        position.project_id,
        from_revision=position.revision,
        log_id=position.log_id,
        snapshot=position.snapshot,
    ) as updates:
        for update in updates:
            _print(position.advance(update))
            if update.resync:
                raise Unanswered("changes may have been missed: start again with --snapshot")


@contextmanager
def interruptible() -> Iterator[None]:
    """End only the enclosed block on SIGTERM or SIGINT."""
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, previous)


def _print(update: WatchUpdate) -> None:
    if wants_json():
        print_json(watch_update_to_proto(update), indent=None)
        return
    for change in update.changes:
        show("  ".join(filter(None, map(one_line, _words(change)))))


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
