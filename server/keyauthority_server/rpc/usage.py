"""Servicer of UsageService: converts between messages and service calls."""

from __future__ import annotations

from keyauthority import convert
from keyauthority.v1 import usage_service_pb2 as pb
from keyauthority_server.rpc.fingerprint import DEFAULT_PAGE_SIZE, content_of
from keyauthority_server.services import Authority, Principal


class UsageServicer:
    """Methods in the order of the proto."""

    def __init__(self, authority: Authority) -> None:
        self._usage = authority.usage

    async def get_usage(
        self, caller: Principal, request: pb.GetUsageRequest
    ) -> pb.GetUsageResponse:
        """See the proto."""
        query = convert.usage_query_from_proto(request)
        page = await self._usage.get(
            caller, query, content_of(request), query.page_size or DEFAULT_PAGE_SIZE
        )
        return convert.usage_page_to_proto(page)

    async def report_usage(
        self, caller: Principal, request: pb.ReportUsageRequest
    ) -> pb.ReportUsageResponse:
        """See the proto."""
        await self._usage.report(caller, convert.usage_report_from_proto(request))
        return pb.ReportUsageResponse()
