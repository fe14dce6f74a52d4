"""Pages of projects: the list with the form of a new one, editing, suspending and resuming."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from starlette.responses import Response

from keyauthority.console.forms import Reader, changed_fields, project_texts
from keyauthority.console.visits import FormPage, Visit, request_id_of
from keyauthority.errors import Aborted

PAGE_SIZE: Final = 100


async def show_all(visit: Visit) -> Response:
    """List the projects, oldest first, with the form of a new one."""
    return await _list(visit).show()


async def create(visit: Visit) -> Response:
    """Create a project."""

    async def action() -> Response:
        reader = Reader(visit.texts)
        request_id = request_id_of(reader)
        labels, rate_limit = reader.read("labels"), reader.read("rate_limit")
        reader.finish()
        project = await visit.authority.create_project(
            reader.text("display_name"),
            labels=labels,
            rate_limit=rate_limit,
            request_id=request_id,
        )
        return visit.go(f"/projects/{project.project_id}", "Project created.")

    return await _list(visit).submit(action)


def _list(visit: Visit) -> FormPage:
    async def load() -> Mapping[str, Any]:
        listing = visit.authority.list_projects(page_size=PAGE_SIZE)
        return {"page": await visit.allowed(listing.page(visit.query("page_token")))}

    return FormPage(visit, "projects.html", load, {"page": None})


async def show_edit(visit: Visit) -> Response:
    """Show the form that changes a project."""
    project = await visit.authority.get_project(visit.path("project_id"))
    texts = project_texts(project) | {"etag": project.etag}
    return await _form(visit, "project_edit.html").show(texts)


async def edit(visit: Visit) -> Response:
    """Change the fields that were edited, unless the project has changed since the form."""
    project_id = visit.path("project_id")

    async def action() -> Response:
        project = await visit.authority.get_project(project_id)
        etag = visit.texts.get("etag", "")
        if etag != project.etag:
            raise Aborted("")
        values = changed_fields(visit.texts, project_texts(project))
        if values:
            await visit.authority.update_project(project_id, etag=etag, **values)
        return visit.go(f"/projects/{project_id}", "Project saved." if values else "No change.")

    return await _form(visit, "project_edit.html").submit(action)


async def show_suspend(visit: Visit) -> Response:
    """Ask before a project is suspended."""
    return await _form(visit, "project_suspend.html").show()


async def suspend(visit: Visit) -> Response:
    """Suspend a project: all its keys are denied."""
    return await _switch(visit, "project_suspend.html", "Project suspended.", suspended=True)


async def show_resume(visit: Visit) -> Response:
    """Ask before a project is resumed."""
    return await _form(visit, "project_resume.html").show()


async def resume(visit: Visit) -> Response:
    """Resume a project: its keys are valid again by their own state."""
    return await _switch(visit, "project_resume.html", "Project resumed.", suspended=False)


def _form(visit: Visit, template: str) -> FormPage:
    async def load() -> Mapping[str, Any]:
        return {"project": await visit.authority.get_project(visit.path("project_id"))}

    return FormPage(visit, template, load, {"project": None})


async def _switch(visit: Visit, template: str, message: str, *, suspended: bool) -> Response:
    project_id = visit.path("project_id")

    async def action() -> Response:
        await visit.authority.update_project(project_id, suspended=suspended)
        return visit.go(f"/projects/{project_id}", message)

    return await _form(visit, template).submit(action)
