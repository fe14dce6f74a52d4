"""Servicer of AdvisoryService: converts between messages and service calls."""

from __future__ import annotations

from keyauthority import convert
from keyauthority.v1 import advisory_service_pb2 as pb
from keyauthority_server.rpc.fingerprint import DEFAULT_PAGE_SIZE, content_of
from keyauthority_server.services import Authority, Principal


class AdvisoryServicer:
    """Methods in the order of the proto."""

    def __init__(self, authority: Authority) -> None:
        self._advisories = authority.advisories

    async def list_advisories(
        self, caller: Principal, request: pb.ListAdvisoriesRequest
    ) -> pb.ListAdvisoriesResponse:
        """See the proto."""
        query = convert.advisory_query_from_proto(request)
        page = await self._advisories.list(
            caller, query, content_of(request), query.page_size or DEFAULT_PAGE_SIZE
        )
        return convert.advisory_page_to_proto(page)
