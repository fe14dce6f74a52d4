"""Calls of ProjectService, awaited: projects."""

from __future__ import annotations

from collections.abc import Mapping

from keyauthority import convert
from keyauthority._requests import projects
from keyauthority.aio.connection import AsyncConnection, AsyncListing
from keyauthority.model import Project, RateLimit
from keyauthority.requests import UNCHANGED, Unchanged
from keyauthority.results import WrittenProject
from keyauthority.v1.project_service_pb2 import CreateProjectRequest


class AsyncProjectCalls(AsyncConnection):
    """Creates, reads and updates projects."""

    async def create_project(
        self,
        display_name: str = "",
        *,
        labels: Mapping[str, str] | None = None,
        rate_limit: RateLimit | None = None,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> Project:
        """Create a project.

        A repeated `request_id`, a UUID, returns the project of the first call, for 24 hours;
        AlreadyExists if the other arguments differ.
        """
        request = projects.create_project(display_name, labels, rate_limit, request_id)
        written = await self._create_project(request, timeout)
        return written.project

    async def _create_project(
        self, request: CreateProjectRequest, timeout: float | None = None
    ) -> WrittenProject:
        """Return the whole result, whose revision and log_id `create_project` drops."""
        return await self._call(
            self._stubs.projects.CreateProject, request, convert.written_project_from_proto, timeout
        )

    async def get_project(self, project_id: str, *, timeout: float | None = None) -> Project:
        """Return one project.

        Raises NotFound if it does not exist or the caller may not see it.
        """
        return await self._call(
            self._stubs.projects.GetProject,
            projects.get_project(project_id),
            projects.project_of,
            timeout,
        )

    def list_projects(
        self, *, page_size: int = 0, timeout: float | None = None
    ) -> AsyncListing[Project]:
        """Return the caller's projects, oldest first. `page_size` is 1 to 1000; 0 means 100."""
        return AsyncListing(
            lambda page_token: self._call(
                self._stubs.projects.ListProjects,
                projects.list_projects(page_size, page_token),
                convert.project_page_from_proto,
                timeout,
            )
        )

    async def update_project(
        self,
        project_id: str,
        *,
        display_name: str | Unchanged | None = UNCHANGED,
        labels: Mapping[str, str] | Unchanged | None = UNCHANGED,
        suspended: bool | Unchanged = UNCHANGED,
        rate_limit: RateLimit | Unchanged | None = UNCHANGED,
        etag: str = "",
        timeout: float | None = None,
    ) -> WrittenProject:
        """Update the given fields of a project; None clears a field, UNCHANGED keeps it.

        While a project is suspended, all its keys are denied. With `etag`, as read from the
        project, the call raises Aborted if the project has changed since. Raises NotFound for an
        unknown project.
        """
        request = projects.update_project(
            project_id,
            display_name=display_name,
            labels=labels,
            suspended=suspended,
            rate_limit=rate_limit,
            etag=etag,
        )
        return await self._call(
            self._stubs.projects.UpdateProject, request, convert.written_project_from_proto, timeout
        )
