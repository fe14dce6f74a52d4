"""Requests of UsageService."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from keyauthority import convert
from keyauthority._requests.arguments import as_invalid_argument, parse_enum, request_id_or_new
from keyauthority.model import UsageGranularity, UsageRow
from keyauthority.requests import KeyObservation, UsageQuery, UsageReport
from keyauthority.v1 import usage_service_pb2


def usage_query(
    project_id: str,
    *,
    access_key: str,
    start_time: datetime | None,
    end_time: datetime | None,
    granularity: UsageGranularity | str,
    page_size: int,
) -> UsageQuery:
    """Return the query of GetUsage. Raises InvalidArgument for an unknown granularity."""
    return UsageQuery(
        project_id=project_id,
        access_key=access_key,
        start_time=start_time,
        end_time=end_time,
        granularity=parse_enum(UsageGranularity, granularity, "granularity")
        or UsageGranularity.HOUR,
        page_size=page_size,
    )


@as_invalid_argument
def get_usage(query: UsageQuery, page_token: str) -> usage_service_pb2.GetUsageRequest:
    """Return the request of GetUsage."""
    return convert.usage_query_to_proto(replace(query, page_token=page_token))


@as_invalid_argument
def report_usage(
    rows: Iterable[UsageRow], observations: Iterable[KeyObservation], batch_id: str | None
) -> usage_service_pb2.ReportUsageRequest:
    """Return the request of ReportUsage."""
    return convert.usage_report_to_proto(
        UsageReport(
            batch_id=request_id_or_new(batch_id),
            rows=tuple(rows),
            observations=tuple(observations),
        )
    )


def nothing(response: usage_service_pb2.ReportUsageResponse) -> None:
    """Return the result of ReportUsage, which is empty."""
