"""The checks of UsageService; see `validate`."""

from __future__ import annotations

from typing import Final

from keyauthority import convert
from keyauthority.errors import FieldViolation
from keyauthority.model import VerdictCode
from keyauthority.restrictions import check_ip
from keyauthority.v1 import usage_service_pb2 as usage_pb
from keyauthority_server.rpc.field_rules import BATCH_MAX, LIST_MAX, Validator

_WITHOUT_KEY: Final = frozenset({VerdictCode.MALFORMED, VerdictCode.UNKNOWN})


def get_usage(request: usage_pb.GetUsageRequest) -> list[FieldViolation]:
    """Check GetUsage."""
    check = Validator()
    check.project_id_if_given(request.project_id)
    if request.access_key:
        check.access_key("access_key", request.access_key)
    check.time("start_time", request, request.start_time)
    check.time("end_time", request, request.end_time)
    check.enum("granularity", request.granularity, convert.USAGE_GRANULARITY_FROM_PROTO)
    check.page(request.page_size, request.page_token)
    return check.violations


def report_usage(request: usage_pb.ReportUsageRequest) -> list[FieldViolation]:
    """Check ReportUsage; violations name `rows[i].field`."""
    check = Validator()
    if check.present("batch_id", request.batch_id):
        check.request_id("batch_id", request.batch_id)
    for field in ("rows", "observations"):
        if len(getattr(request, field)) > BATCH_MAX:
            check.refuse(field, f"at most {BATCH_MAX}")
            return check.violations
    for index, row in enumerate(request.rows):
        _usage_row(check, f"rows[{index}]", row)
        if len(check.violations) >= LIST_MAX:
            return check.violations
    for index, one in enumerate(request.observations):
        check.access_key(f"observations[{index}].access_key", one.access_key)
        check.grants(f"observations[{index}].permissions", one.permissions)
        if one.last_peer:
            check.entry(f"observations[{index}].last_peer", one.last_peer, check_ip)
        if len(check.violations) >= LIST_MAX:
            break
    return check.violations


def _usage_row(check: Validator, name: str, row: usage_pb.UsageRow) -> None:
    if row.project_id:
        check.project_id(f"{name}.project_id", row.project_id)
    check.access_key(f"{name}.access_key", row.access_key)
    verdict = convert.VERDICT_FROM_PROTO.get(row.verdict)
    if verdict is None or verdict in _WITHOUT_KEY:
        check.refuse(f"{name}.verdict", "required: any verdict except MALFORMED and UNKNOWN")
    for field in ("bucket_time", "last_used_time"):
        if check.present(f"{name}.{field}", row.HasField(field)):
            check.time(f"{name}.{field}", row, getattr(row, field))
    if row.count < 0:
        check.refuse(f"{name}.count", "must not be negative")
    if row.cost < 0 or (row.cost and verdict is not VerdictCode.VALID):
        check.refuse(f"{name}.cost", "must not be negative, and must be 0 for a denial")
