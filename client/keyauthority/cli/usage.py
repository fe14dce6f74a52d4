"""`keyauthority usage`: counts verifications."""

from __future__ import annotations

from typing import Any, Final

import click

from keyauthority.cli import options, parameters
from keyauthority.cli.formats import Paging, paged, print_listing
from keyauthority.cli.output import row_of
from keyauthority.cli.session import connected, settings
from keyauthority.convert import usage_page_to_proto
from keyauthority.model import UsageGranularity


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
def usage(project_id: str, access_key: str | None, paging: Paging, **filters: Any) -> None:
    """Count verifications by key and verdict, oldest first.

    They are counted per hour or day, in UTC.
    """
    with connected() as authority:
        page = paging.fetch(authority.get_usage, project_id, access_key=access_key or "", **filters)
    rows = [row_of(row, _COLUMNS) for row in page.items]
    print_listing(usage_page_to_proto(page), "rows", _COLUMNS, rows)


_COLUMNS: Final = (
    *("access_key", "bucket_time", "verdict", "count", "cost", "last_used_time", "project_id"),
)
