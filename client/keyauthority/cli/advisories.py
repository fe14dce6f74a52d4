"""`keyauthority advisories`: lists keys that need attention."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

import click

from keyauthority.cli import parameters
from keyauthority.cli.failures import REFUSED
from keyauthority.cli.formats import Paging, paged, print_listing
from keyauthority.cli.output import row_of
from keyauthority.cli.session import connected, settings
from keyauthority.convert import advisory_page_to_proto
from keyauthority.model import AdvisoryType


@click.command()
@click.option("--project-id", default="", help="Project ID (default: all visible projects).")
@click.option(
    "--type",
    "types",
    type=parameters.choice(AdvisoryType),
    multiple=True,
    metavar="TYPE",
    help=f"Only this type; may be repeated: {', '.join(AdvisoryType)}.",
)
@click.option(
    "--fail-on",
    type=parameters.choice(AdvisoryType),
    multiple=True,
    metavar="TYPE",
    help="Exit with 1 if there is an advisory of this type; may be repeated.",
)
@click.option(
    "--dormant-after",
    type=parameters.duration,
    metavar="SPAN",
    help="Time without a use, of a key or a permission (default: 90d).",
)
@click.option(
    "--expires-within",
    type=parameters.duration,
    metavar="SPAN",
    help="Time before an expiry (default: 30d).",
)
@paged
@settings
@click.pass_context
def advisories(
    context: click.Context,
    /,
    project_id: str,
    types: tuple[str, ...],
    fail_on: tuple[str, ...],
    paging: Paging,
    **bounds: timedelta | None,
) -> None:
    """List keys that are dead, dangerous or about to end.

    The oldest key is first. Exit codes: 1 if an advisory has a type named by --fail-on.
    """
    if fail_on and (paging.limit or paging.page_token):
        raise click.UsageError("--fail-on needs the whole list: it takes no limit or page")
    if types and not set(fail_on) <= set(types):
        raise click.UsageError("--fail-on takes types that --type lists")
    with connected() as authority:
        page = paging.fetch(authority.list_advisories, project_id, types=types, **bounds)
    rows = [row_of(advisory, _COLUMNS) for advisory in page.items]
    print_listing(advisory_page_to_proto(page), "advisories", _COLUMNS, rows)
    if any(advisory.type in fail_on for advisory in page.items):
        context.exit(REFUSED)


_COLUMNS: Final = (
    *("access_key", "type", "since_time", "last_time", "count", "last_peer"),
    *("permissions", "project_id", "remedy"),
)
