"""Servicer of ProjectService: converts between messages and service calls."""

from __future__ import annotations

from keyauthority import convert
from keyauthority.v1 import project_service_pb2 as pb
from keyauthority_server.rpc.fingerprint import DEFAULT_PAGE_SIZE, as_masked, content_of
from keyauthority_server.services import Authority, Principal


class ProjectServicer:
    """Methods in the order of the proto."""

    def __init__(self, authority: Authority) -> None:
        self._projects = authority.projects
        self._updates = authority.updates

    async def create_project(
        self, caller: Principal, request: pb.CreateProjectRequest
    ) -> pb.CreateProjectResponse:
        """See the proto."""
        new = convert.new_project_from_proto(request)
        created = await self._projects.create(caller, new, content_of(request))
        return convert.created_project_to_proto(created)

    async def get_project(
        self, caller: Principal, request: pb.GetProjectRequest
    ) -> pb.GetProjectResponse:
        """See the proto."""
        project = await self._projects.get(caller, request.project_id)
        return pb.GetProjectResponse(project=convert.project_to_proto(project))

    async def list_projects(
        self, caller: Principal, request: pb.ListProjectsRequest
    ) -> pb.ListProjectsResponse:
        """See the proto."""
        page_size = request.page_size or DEFAULT_PAGE_SIZE
        page = await self._projects.list(caller, content_of(request), page_size, request.page_token)
        return convert.project_page_to_proto(page)

    async def update_project(
        self, caller: Principal, request: pb.UpdateProjectRequest
    ) -> pb.UpdateProjectResponse:
        """See the proto."""
        update = convert.project_update_from_proto(as_masked(request, request.update_mask))
        return convert.written_project_to_proto(await self._updates.project(caller, update))
