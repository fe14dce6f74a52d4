"""`keyauthority projects`: create, show, list, update, suspend and resume projects."""

from __future__ import annotations

from typing import Any, Final

import click
from google.protobuf.message import Message

from keyauthority._requests import projects as calls
from keyauthority.cli import options, parameters
from keyauthority.cli.formats import Paging, paged, print_listing, print_result
from keyauthority.cli.output import record_fields, row_of
from keyauthority.cli.session import confirm, connected, settings
from keyauthority.convert import (
    created_project_to_proto,
    project_page_to_proto,
    project_to_proto,
    written_project_to_proto,
)
from keyauthority.model import Project, RateLimit
from keyauthority.results import WrittenProject
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
    _show(created_project_to_proto(written), written.project)


@projects.command()
@options.record_id("project_id", "Project ID.")
@options.project_fields
@options.changes(("display_name", "labels", "rate_limit"))
@settings
def update(project_id: str, cleared: tuple[str, ...], etag: str, **values: Any) -> None:
    """Update the given fields of a project.

    Other fields keep their values. Labels are replaced as a whole.
    """
    fields = options.changed(values, cleared)
    with connected() as authority:
        written = authority.update_project(project_id, etag=etag, **fields)
    _show_written(written)


@projects.command()
@options.record_id("project_id", "Project ID.")
@options.yes
@settings
def suspend(project_id: str, yes: bool) -> None:
    """Suspend a project.

    All its keys are denied until it is resumed.
    """
    confirm(f"Deny all keys of project {project_id}?", yes=yes)
    with connected() as authority:
        written = authority.update_project(project_id, suspended=True)
    _show_written(written)


@projects.command()
@options.record_id("project_id", "Project ID.")
@settings
def resume(project_id: str) -> None:
    """Resume a suspended project.

    Its keys are valid again by their own state.
    """
    with connected() as authority:
        written = authority.update_project(project_id, suspended=False)
    _show_written(written)


def _show_written(written: WrittenProject) -> None:
    _show(written_project_to_proto(written), written.project)


def _show(message: Message, project: Project) -> None:
    print_result(message, record_fields(project), project.project_id)


@projects.command()
@options.record_id("project_id", "Project ID.")
@settings
def show(project_id: str) -> None:
    """Show one project."""
    with connected() as authority:
        project = authority.get_project(project_id)
    _show(project_service_pb2.GetProjectResponse(project=project_to_proto(project)), project)


@projects.command("list")
@paged
@settings
def list_(paging: Paging) -> None:
    """List the visible projects, oldest first."""
    with connected() as authority:
        page = paging.fetch(authority.list_projects)
    rows = [row_of(project, _COLUMNS) for project in page.items]
    print_listing(project_page_to_proto(page), "projects", _COLUMNS, rows)


_COLUMNS: Final = (
    *("project_id", "display_name", "suspended", "rate_limit", "create_time", "labels"),
)
