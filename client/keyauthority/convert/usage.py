"""Usage <-> proto: rows, queries and reports."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from keyauthority.convert.enums import (
    USAGE_GRANULARITY_FROM_PROTO,
    USAGE_GRANULARITY_TO_PROTO,
    VERDICT_FROM_PROTO,
    VERDICT_TO_PROTO,
)
from keyauthority.convert.requests import optional, read, read_if_given
from keyauthority.convert.times import timestamp, to_datetime
from keyauthority.model import UsageGranularity, UsageRow, VerdictCode
from keyauthority.requests import KeyObservation, UsageQuery, UsageReport
from keyauthority.results import Page
from keyauthority.v1 import usage_service_pb2


def usage_row_to_proto(row: UsageRow) -> usage_service_pb2.UsageRow:
    """Return the row as a proto."""
    return usage_service_pb2.UsageRow(
        project_id=row.project_id,
        access_key=row.access_key,
        verdict=VERDICT_TO_PROTO[row.verdict],
        bucket_time=timestamp(row.bucket_time),
        count=row.count,
        cost=row.cost,
        last_used_time=timestamp(row.last_used_time),
    )


def usage_row_from_proto(proto: usage_service_pb2.UsageRow) -> UsageRow:
    """Return the row. Raises ValueError for an unknown verdict, or a missing or invalid time."""
    return UsageRow(
        project_id=proto.project_id,
        access_key=proto.access_key,
        verdict=_verdict(proto),
        bucket_time=_bucket_time(proto),
        count=proto.count,
        cost=proto.cost,
        last_used_time=_last_used_time(proto),
    )


def _verdict(proto: usage_service_pb2.UsageRow) -> VerdictCode:
    code = VERDICT_FROM_PROTO.get(proto.verdict)
    if code is None:
        raise ValueError("the verdict is not one that this version knows")
    return code


def _bucket_time(proto: usage_service_pb2.UsageRow) -> datetime:
    if not proto.HasField("bucket_time"):
        raise ValueError("the start of the hour or day is missing")
    return to_datetime(proto.bucket_time)


def _last_used_time(proto: usage_service_pb2.UsageRow) -> datetime:
    if not proto.HasField("last_used_time"):
        raise ValueError("the time of the newest verification is missing")
    return to_datetime(proto.last_used_time)


_PARTS: Final = {
    "verdict": _verdict,
    "bucket_time": _bucket_time,
    "last_used_time": _last_used_time,
}


def usage_query_to_proto(query: UsageQuery) -> usage_service_pb2.GetUsageRequest:
    """Return the request as a proto."""
    return usage_service_pb2.GetUsageRequest(
        project_id=query.project_id,
        access_key=query.access_key,
        start_time=timestamp(query.start_time),
        end_time=timestamp(query.end_time),
        granularity=USAGE_GRANULARITY_TO_PROTO[query.granularity],
        page_size=query.page_size,
        page_token=query.page_token,
    )


def usage_query_from_proto(proto: usage_service_pb2.GetUsageRequest) -> UsageQuery:
    """Return the request. Raises InvalidArgument, naming the field, for an unsupported value."""
    granularity = optional(USAGE_GRANULARITY_FROM_PROTO, proto.granularity, "granularity")
    return UsageQuery(
        project_id=proto.project_id,
        access_key=proto.access_key,
        start_time=read_if_given(to_datetime, proto, "start_time"),
        end_time=read_if_given(to_datetime, proto, "end_time"),
        granularity=granularity or UsageGranularity.HOUR,
        page_size=proto.page_size,
        page_token=proto.page_token,
    )


def usage_page_to_proto(page: Page[UsageRow]) -> usage_service_pb2.GetUsageResponse:
    """Return the response of GetUsage as a proto."""
    return usage_service_pb2.GetUsageResponse(
        rows=map(usage_row_to_proto, page.items), next_page_token=page.next_page_token
    )


def usage_page_from_proto(proto: usage_service_pb2.GetUsageResponse) -> Page[UsageRow]:
    """Return the response of GetUsage. Raises ValueError for an invalid row."""
    return Page(tuple(map(usage_row_from_proto, proto.rows)), proto.next_page_token)


def usage_report_to_proto(report: UsageReport) -> usage_service_pb2.ReportUsageRequest:
    """Return the request as a proto."""
    return usage_service_pb2.ReportUsageRequest(
        batch_id=report.batch_id,
        rows=map(usage_row_to_proto, report.rows),
        observations=[
            usage_service_pb2.KeyObservation(
                access_key=observation.access_key,
                permissions=observation.permissions,
                last_peer=observation.last_peer,
            )
            for observation in report.observations
        ],
    )


def usage_report_from_proto(proto: usage_service_pb2.ReportUsageRequest) -> UsageReport:
    """Return the request. Raises InvalidArgument, naming `rows[i].field`."""
    for index, row in enumerate(proto.rows):
        for field, parse in _PARTS.items():
            read(parse, row, f"rows[{index}].{field}")
    return UsageReport(
        batch_id=proto.batch_id,
        rows=tuple(map(usage_row_from_proto, proto.rows)),
        observations=tuple(
            KeyObservation(
                access_key=observation.access_key,
                permissions=tuple(observation.permissions),
                last_peer=observation.last_peer,
            )
            for observation in proto.observations
        ),
    )
