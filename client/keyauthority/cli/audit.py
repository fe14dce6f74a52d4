"""`keyauthority audit`: lists audit events."""

from __future__ import annotations

from datetime import datetime

import click

from keyauthority.cli import parameters
from keyauthority.cli.output import print_json, print_rows, time_text
from keyauthority.cli.session import PAGE_SIZE, connected, settings, wants_json
from keyauthority.convert import event_page_to_proto
from keyauthority.results import Event, FieldChange, Page


@click.command()
@click.option("--project-id", default="", help="Project ID (default: all visible projects).")
@click.option("--access-key", default="", help="Access key of the changed key.")
@click.option("--actor", default="", help="Operator: its access key, or a name.")
@click.option("--start-time", type=parameters.time, metavar="TIME", help="First time, inclusive.")
@click.option("--end-time", type=parameters.time, metavar="TIME", help="Last time, exclusive.")
@settings
def audit(
    project_id: str,
    access_key: str,
    actor: str,
    start_time: datetime | None,
    end_time: datetime | None,
) -> None:
    """List changes with time, operator, peer, and values before and after; oldest first."""
    with connected() as authority:
        events = tuple(
            authority.list_events(
                project_id,
                access_key=access_key,
                actor=actor,
                start_time=start_time,
                end_time=end_time,
                page_size=PAGE_SIZE,
            )
        )
    if wants_json():
        print_json(event_page_to_proto(Page(events)))
    else:
        print_rows(
            ("revision", "time", "type", "actor", "peer", "project_id", "access_key", "changed"),
            map(_row, events),
        )


def _row(event: Event) -> tuple[str, ...]:
    return (
        str(event.revision),
        time_text(event.time),
        event.type.value,
        event.actor,
        event.peer,
        event.project_id,
        event.access_key,
        "; ".join(map(_field_change, event.changed)),
    )


def _field_change(change: FieldChange) -> str:
    return f"{change.field}: {change.before or '-'} > {change.after or '-'}"
