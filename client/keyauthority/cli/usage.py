"""`keyauthority usage`: counts verifications."""

from __future__ import annotations

from datetime import datetime
from typing import Final

import click

from keyauthority.cli import options, parameters
from keyauthority.cli.formats import fetched, paged, print_listing
from keyauthority.cli.output import time_text
from keyauthority.cli.session import connected, settings
from keyauthority.convert import usage_page_to_proto
from keyauthority.model import UsageGranularity, UsageRow


@click.command()
@click.option("--project-id", default="", help="Project ID (default: all visible projects).")
@options.record_id("access_key", "Access key (default: all).", required=False)
@click.option(
    "--start-time", type=parameters.time_ago, metavar="TIME|SPAN", help="First time, inclusive."
)
@click.option(
    "--end-time", type=parameters.time_ahead, metavar="TIME|SPAN", help="Last time, exclusive."
)
@click.option(
    "--granularity",
    type=parameters.choice(UsageGranularity),
    default=UsageGranularity.HOUR.value,
    show_default=True,
    help="Width of a bucket.",
)
@paged
@settings
def usage(
    project_id: str,
    access_key: str | None,
    start_time: datetime | None,
    end_time: datetime | None,
    granularity: str,
    limit: int | None,
    page_token: str,
    newest_first: bool,
) -> None:
    """Count verifications by key and verdict, oldest first.

    They are counted per hour or day, in UTC.
    """
    with connected() as authority:
        page = fetched(
            lambda size: authority.get_usage(
                project_id,
                access_key=access_key or "",
                start_time=start_time,
                end_time=end_time,
                granularity=granularity,
                page_size=size,
            ),
            *(limit, page_token),
            newest_first=newest_first,
        )
    print_listing(
        usage_page_to_proto(page),
        "rows",
        *(_COLUMNS, [_row(row) for row in page.items]),
        [row.access_key for row in page.items],
    )


_COLUMNS: Final = (
    *("access_key", "bucket_time", "verdict", "count", "cost", "last_used_time", "project_id"),
)


def _row(row: UsageRow) -> tuple[str, ...]:
    return (
        row.access_key,
        time_text(row.bucket_time),
        row.verdict,
        str(row.count),
        str(row.cost),
        time_text(row.last_used_time),
        row.project_id,
    )
