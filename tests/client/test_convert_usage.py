"""Counts of verifications there and back, and what of them is refused."""

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
def test_a_row_there_and_back_is_the_same(row: UsageRow) -> None:
    """A count survives the wire in every field."""
    sent = Row.FromString(convert.usage_row_to_proto(row).SerializeToString())

    assert convert.usage_row_from_proto(sent) == row


def test_every_field_of_a_row_has_a_field_in_the_proto() -> None:
    """A field that is added to one side only is noticed."""
    fields = set(UsageRow.__dataclass_fields__)

    assert {field.name for field in Row.DESCRIPTOR.fields} == fields


@given(usage_queries)
def test_a_query_there_and_back_is_the_same(query: UsageQuery) -> None:
    """What is asked of GetUsage arrives whole."""
    sent = GetUsageRequest.FromString(convert.usage_query_to_proto(query).SerializeToString())

    assert convert.usage_query_from_proto(sent) == query


def test_a_granularity_that_is_unset_is_the_hour() -> None:
    """The proto says so."""
    query = convert.usage_query_from_proto(GetUsageRequest())

    assert query.granularity is UsageGranularity.HOUR


@given(st.lists(usage_rows, max_size=3).map(tuple), texts)
def test_a_page_there_and_back_is_the_same(rows: tuple[UsageRow, ...], token: str) -> None:
    """The answer of GetUsage arrives whole and in order."""
    page = Page(rows, token)
    sent = GetUsageResponse.FromString(convert.usage_page_to_proto(page).SerializeToString())

    assert convert.usage_page_from_proto(sent) == page


@given(usage_reports)
def test_a_report_there_and_back_is_the_same(report: UsageReport) -> None:
    """What is told to ReportUsage arrives whole."""
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
def test_a_reported_row_that_cannot_be_read_names_its_place(
    field: str, bad: int | Timestamp | None
) -> None:
    """A count is never taken for another: the row and the field are named instead."""
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
def test_a_query_that_the_model_cannot_hold_names_its_field(
    proto: GetUsageRequest, field: str
) -> None:
    """A request is never read as if it had not asked."""
    with pytest.raises(InvalidArgument) as refused:
        convert.usage_query_from_proto(proto)

    assert [violation.field for violation in refused.value.fields] == [field]


def test_an_answer_with_a_row_that_cannot_be_read_is_refused() -> None:
    """A verdict that is not known is not dropped from the counts in silence."""
    with pytest.raises(ValueError, match="verdict"):
        convert.usage_page_from_proto(GetUsageResponse(rows=[Row(access_key="KA")]))
