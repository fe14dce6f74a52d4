"""Requests of ProjectService, and their results."""

from __future__ import annotations

from collections.abc import Mapping

from keyauthority import convert
from keyauthority._requests.arguments import as_invalid_argument, request_id_or_new, update_mask
from keyauthority.model import Project, RateLimit
from keyauthority.requests import NewProject, ProjectUpdate, Unchanged
from keyauthority.v1 import project_service_pb2


@as_invalid_argument
def create_project(
    display_name: str,
    labels: Mapping[str, str] | None,
    rate_limit: RateLimit | None,
    request_id: str | None,
) -> project_service_pb2.CreateProjectRequest:
    """Return the request of CreateProject."""
    return convert.new_project_to_proto(
        NewProject(
            display_name=display_name,
            labels=labels or {},
            rate_limit=rate_limit,
            request_id=request_id_or_new(request_id),
        )
    )


@as_invalid_argument
def get_project(project_id: str) -> project_service_pb2.GetProjectRequest:
    """Return the request of GetProject."""
    return project_service_pb2.GetProjectRequest(project_id=project_id)


@as_invalid_argument
def list_projects(page_size: int, page_token: str) -> project_service_pb2.ListProjectsRequest:
    """Return the request of ListProjects."""
    return project_service_pb2.ListProjectsRequest(page_size=page_size, page_token=page_token)


@as_invalid_argument
def update_project(
    project_id: str,
    *,
    display_name: str | Unchanged | None,
    labels: Mapping[str, str] | Unchanged | None,
    suspended: bool | Unchanged,
    rate_limit: RateLimit | Unchanged | None,
    etag: str,
) -> project_service_pb2.UpdateProjectRequest:
    """Return the request of UpdateProject."""
    paths, values = update_mask(
        {
            "display_name": display_name,
            "labels": labels,
            "suspended": suspended,
            "rate_limit": rate_limit,
        }
    )
    return convert.project_update_to_proto(
        ProjectUpdate(project_id=project_id, paths=paths, etag=etag, **values)
    )


def project_of(response: project_service_pb2.GetProjectResponse) -> Project:
    """Return the result of GetProject."""
    return convert.project_from_proto(response.project)
