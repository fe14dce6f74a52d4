"""`keyauthority projects`: create, show, list, update, suspend and resume projects."""

from __future__ import annotations

from typing import Any

import click

from keyauthority._requests import projects as calls
from keyauthority.cli import options, parameters
from keyauthority.cli.output import (
    labels_text,
    print_fields,
    print_json,
    print_rows,
    project_fields,
    rate_limit_text,
    time_text,
)
from keyauthority.cli.session import PAGE_SIZE, connected, settings, wants_json
from keyauthority.convert import (
    created_project_to_proto,
    project_page_to_proto,
    project_to_proto,
    written_project_to_proto,
)
from keyauthority.model import RateLimit
from keyauthority.results import Page, WrittenProject
from keyauthority.v1 import project_service_pb2


@click.group()
@settings
def projects() -> None:
    """Create, show and update projects."""


@projects.command()
@options.project_fields
@options.request_id
@settings
def create(
    display_name: str | None,
    labels: tuple[tuple[str, str], ...],
    rate_limit: RateLimit | None,
    request_id: str,
) -> None:
    """Create a project."""
    with connected() as authority:
        request = calls.create_project(
            display_name or "", parameters.label_map(labels), rate_limit, request_id
        )
        written = authority._create_project(request)  # with the log_id that the JSON output needs
    if wants_json():
        print_json(created_project_to_proto(written))
    else:
        print_fields(project_fields(written.project))


@projects.command()
@click.option("--project-id", required=True, help="Project ID.")
@options.project_fields
@options.changes(("display_name", "labels", "rate_limit"))
@settings
def update(project_id: str, cleared: tuple[str, ...], etag: str, **values: Any) -> None:
    """Update the given fields of a project; other fields keep their values.

    Labels are replaced as a whole.
    """
    fields = options.changed(values, cleared)
    with connected() as authority:
        written = authority.update_project(project_id, etag=etag, **fields)
    _show_written(written)


@projects.command()
@click.option("--project-id", required=True, help="Project ID.")
@settings
def suspend(project_id: str) -> None:
    """Suspend a project: all its keys are denied until it is resumed."""
    with connected() as authority:
        written = authority.update_project(project_id, suspended=True)
    _show_written(written)


@projects.command()
@click.option("--project-id", required=True, help="Project ID.")
@settings
def resume(project_id: str) -> None:
    """Resume a suspended project: its keys are valid again by their own state."""
    with connected() as authority:
        written = authority.update_project(project_id, suspended=False)
    _show_written(written)


def _show_written(written: WrittenProject) -> None:
    if wants_json():
        print_json(written_project_to_proto(written))
    else:
        print_fields(project_fields(written.project))


@projects.command()
@click.option("--project-id", required=True, help="Project ID.")
@settings
def show(project_id: str) -> None:
    """Show one project."""
    with connected() as authority:
        project = authority.get_project(project_id)
    if wants_json():
        print_json(project_service_pb2.GetProjectResponse(project=project_to_proto(project)))
    else:
        print_fields(project_fields(project))


@projects.command("list")
@settings
def list_() -> None:
    """List all visible projects, oldest first."""
    with connected() as authority:
        listed = tuple(authority.list_projects(page_size=PAGE_SIZE))
    if wants_json():
        print_json(project_page_to_proto(Page(listed)))
    else:
        print_rows(
            ("project_id", "display_name", "suspended", "rate_limit", "create_time", "labels"),
            (
                (
                    project.project_id,
                    project.display_name,
                    "yes" if project.suspended else "",
                    rate_limit_text(project.rate_limit),
                    time_text(project.create_time),
                    labels_text(project.labels),
                )
                for project in listed
            ),
        )
