"""`keyauthority usage`: counts verifications."""

from __future__ import annotations

from datetime import datetime

import click

from keyauthority.cli import parameters
from keyauthority.cli.output import print_json, print_rows, time_text
from keyauthority.cli.session import PAGE_SIZE, connected, settings, wants_json
from keyauthority.convert import usage_page_to_proto
from keyauthority.model import UsageGranularity
from keyauthority.results import Page


@click.command()
@click.option("--project-id", default="", help="Project ID (default: all visible projects).")
@click.option("--access-key", default="", help="Access key (default: all).")
@click.option("--start-time", type=parameters.time, metavar="TIME", help="First time, inclusive.")
@click.option("--end-time", type=parameters.time, metavar="TIME", help="Last time, exclusive.")
@click.option(
    "--granularity",
    type=parameters.choice(UsageGranularity),
    default=UsageGranularity.HOUR.value,
    show_default=True,
    help="Width of a bucket.",
)
@settings
def usage(
    project_id: str,
    access_key: str,
    start_time: datetime | None,
    end_time: datetime | None,
    granularity: str,
) -> None:
    """Count verifications by key and verdict, per hour or day in UTC, oldest first."""
    with connected() as authority:
        rows = tuple(
            authority.get_usage(
                project_id,
                access_key=access_key,
                start_time=start_time,
                end_time=end_time,
                granularity=granularity,
                page_size=PAGE_SIZE,
            )
        )
    if wants_json():
        print_json(usage_page_to_proto(Page(rows)))
    else:
        print_rows(
            (
                "access_key",
                "bucket_time",
                "verdict",
                "count",
                "cost",
                "last_used_time",
                "project_id",
            ),
            (
                (
                    row.access_key,
                    time_text(row.bucket_time),
                    row.verdict,
                    str(row.count),
                    str(row.cost),
                    time_text(row.last_used_time),
                    row.project_id,
                )
                for row in rows
            ),
        )
