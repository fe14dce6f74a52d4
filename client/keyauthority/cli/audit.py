"""`keyauthority audit`: lists audit events."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

import click
from google.protobuf.message import Message

from keyauthority.cli import options, parameters
from keyauthority.cli.formats import Paging, paged, print_listing
from keyauthority.cli.output import print_json, row_of, say, show
from keyauthority.cli.session import connected, settings, wants_json
from keyauthority.cli.watch import interruptible
from keyauthority.convert import event_page_to_proto, event_to_proto
from keyauthority.errors import DeadlineExceeded, Unavailable
from keyauthority.results import Event, FieldChange, Page
from keyauthority.text import one_line


@click.command()
@click.option("--project-id", default="", help="Project ID (default: all visible projects).")
@options.record_id("access_key", "Access key of the changed key.", required=False)
@click.option("--actor", default="", help="Operator: its access key, or a name.")
@click.option(
    "--start-time", type=parameters.time_ago, metavar="TIME|SPAN", help="First time, inclusive."
)
@click.option(
    "--end-time", type=parameters.time_ahead, metavar="TIME|SPAN", help="Last time, exclusive."
)
@click.option("--follow", is_flag=True, help="Continue with new changes, until interrupted.")
@paged
@settings
def audit(
    project_id: str,
    access_key: str | None,
    actor: str,
    start_time: datetime | None,
    end_time: datetime | None,
    follow: bool,
    paging: Paging,
) -> None:
    """List changes with their operators, oldest first.

    Each has its time, the operator, the peer, and the values before and after.
    """
    if follow and (end_time or any(paging)):
        raise click.UsageError("--follow takes no end, limit, page or other order")

    def events_from(start: datetime | None) -> Page[Event]:
        return paging.fetch(
            *(authority.list_events, project_id),
            access_key=access_key or "",
            actor=actor,
            start_time=start,
            end_time=end_time,
        )

    with connected() as authority:
        page = events_from(start_time)
        if not follow:
            _print(page.items, event_page_to_proto(page))
            return
        with interruptible():
            _follow(events_from, page.items)


def _print(events: Sequence[Event], message: Message) -> None:
    print_listing(message, "events", _COLUMNS, list(map(_row, events)))


def _follow(events_from: Callable[[datetime | None], Page[Event]], first: Sequence[Event]) -> None:
    """Print events, then new ones as they come, each in the chosen form on lines of its own."""
    events, newest, start = first, 0, None
    while True:
        for event in events:
            if event.revision > newest:
                newest, start = event.revision, event.time
                _print_line(event)
        time.sleep(_POLL_SECONDS)
        try:
            events = events_from(start).items
        except (Unavailable, DeadlineExceeded) as error:
            say(f"keyauthority audit: {one_line(error.message)}; resuming")


def _print_line(event: Event) -> None:
    if wants_json():
        print_json(event_to_proto(event), indent=None)
    else:
        show("\t".join(map(one_line, _row(event))))


_COLUMNS: Final = (
    *("revision", "time", "type", "actor", "peer", "project_id", "access_key", "changed"),
)
_POLL_SECONDS: Final = 1.0


def _row(event: Event) -> tuple[str, ...]:
    return (*row_of(event, _COLUMNS[:-1]), "; ".join(map(_field_change, event.changed)))


def _field_change(change: FieldChange) -> str:
    return f"{change.field}: {change.before or '-'} > {change.after or '-'}"
