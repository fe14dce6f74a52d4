"""Conversion of usage, and rejected rows."""

from __future__ import annotations

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from keyauthority import convert
from keyauthority.errors import ErrorReason, InvalidArgument
from keyauthority.model import UsageGranularity, UsageRow
from keyauthority.requests import UsageQuery, UsageReport
from keyauthority.results import Page
from keyauthority.v1.usage_service_pb2 import (
    GetUsageRequest,
    GetUsageResponse,
    ReportUsageRequest,
)
from keyauthority.v1.usage_service_pb2 import UsageRow as Row
from tests.client.records import USAGE_ROW
from tests.client.strategies import texts, usage_queries, usage_reports, usage_rows

_BAD_TIME = Timestamp(seconds=2**62)


@given(usage_rows)
def test_usage_row_roundtrips(row: UsageRow) -> None:
    """A row survives the wire in every field."""
    sent = Row.FromString(convert.usage_row_to_proto(row).SerializeToString())

    assert convert.usage_row_from_proto(sent) == row


def test_usage_row_fields_match_the_proto() -> None:
    """A field added to one side only is noticed."""
    fields = set(UsageRow.__dataclass_fields__)

    assert {field.name for field in Row.DESCRIPTOR.fields} == fields


@given(usage_queries)
def test_usage_query_roundtrips(query: UsageQuery) -> None:
    """A GetUsage request survives in every field."""
    sent = GetUsageRequest.FromString(convert.usage_query_to_proto(query).SerializeToString())

    assert convert.usage_query_from_proto(sent) == query


def test_unset_granularity_is_the_hour() -> None:
    """As the proto documents."""
    query = convert.usage_query_from_proto(GetUsageRequest())

    assert query.granularity is UsageGranularity.HOUR


@given(st.lists(usage_rows, max_size=3).map(tuple), texts)
def test_usage_page_roundtrips(rows: tuple[UsageRow, ...], token: str) -> None:
    """A GetUsage response survives in order."""
    page = Page(rows, token)
    sent = GetUsageResponse.FromString(convert.usage_page_to_proto(page).SerializeToString())

    assert convert.usage_page_from_proto(sent) == page


@given(usage_reports)
def test_usage_report_roundtrips(report: UsageReport) -> None:
    """A ReportUsage request survives in every field."""
    sent = ReportUsageRequest.FromString(convert.usage_report_to_proto(report).SerializeToString())

    assert convert.usage_report_from_proto(sent) == report


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        ("verdict", None),
        ("verdict", 99),
        ("bucket_time", None),
        ("bucket_time", _BAD_TIME),
        ("last_used_time", None),
        ("last_used_time", _BAD_TIME),
    ],
)
def test_unreadable_reported_row_names_its_index(field: str, bad: int | Timestamp | None) -> None:
    """The error names row and field, so that no count is misread."""
    good = convert.usage_row_to_proto(USAGE_ROW)
    row = convert.usage_row_to_proto(USAGE_ROW)
    row.ClearField(field)  # type: ignore[arg-type]  # one of the names above
    if isinstance(bad, Timestamp):
        getattr(row, field).CopyFrom(bad)
    elif bad is not None:
        setattr(row, field, bad)

    with pytest.raises(InvalidArgument) as refused:
        convert.usage_report_from_proto(ReportUsageRequest(rows=[good, row]))

    assert refused.value.reason is ErrorReason.INVALID_FIELD
    assert [violation.field for violation in refused.value.fields] == [f"rows[1].{field}"]


@pytest.mark.parametrize(
    ("proto", "field"),
    [
        (GetUsageRequest(granularity=99), "granularity"),  # type: ignore[arg-type]  # no value
        (GetUsageRequest(start_time=_BAD_TIME), "start_time"),
        (GetUsageRequest(end_time=_BAD_TIME), "end_time"),
    ],
)
def test_unrepresentable_query_value_names_its_field(proto: GetUsageRequest, field: str) -> None:
    """A request is never read as if the field were unset."""
    with pytest.raises(InvalidArgument) as refused:
        convert.usage_query_from_proto(proto)

    assert [violation.field for violation in refused.value.fields] == [field]


def test_response_with_an_unreadable_row_is_refused() -> None:
    """An unknown verdict is not dropped silently from the counts."""
    with pytest.raises(ValueError, match="verdict"):
        convert.usage_page_from_proto(GetUsageResponse(rows=[Row(access_key="KA")]))
