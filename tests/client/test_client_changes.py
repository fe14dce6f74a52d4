"""Requests and results of update, rotate and metering calls of both clients."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.message import Message

from keyauthority import UNCHANGED, convert
from keyauthority.errors import InvalidArgument
from keyauthority.model import Quota, QuotaPeriod, RateLimit, Restrictions, UsageGranularity
from keyauthority.requests import KeyUpdate, ProjectUpdate, Rotation, UsageQuery, UsageReport
from keyauthority.results import Page
from keyauthority.v1.usage_service_pb2 import ReportUsageResponse
from tests.client.conftest import Call
from tests.client.fake_authority import FakeAuthority
from tests.client.records import (
    CREATED_PROJECT,
    KEY,
    PROJECT_ID,
    ROTATED,
    USAGE_ROW,
    WRITTEN_KEY,
)
from tests.client.strategies import at

_LIMIT = RateLimit(100, timedelta(minutes=1))
_QUOTA = Quota(1000, QuotaPeriod.DAY)
_RESTRICTIONS = Restrictions(allowed_ips=("10.0.0.0/8",))
_KEY_FIELDS: dict[str, Any] = {
    "purpose": "nightly export",
    "permissions": ("orders:read",),
    "restrictions": _RESTRICTIONS,
    "expire_time": at(60),
    "rate_limit": _LIMIT,
    "quota": _QUOTA,
    "labels": {"a": "b"},
}
_PROJECT_FIELDS: dict[str, Any] = {
    "display_name": "Shop",
    "labels": {"a": "b"},
    "rate_limit": _LIMIT,
}
_KEY_ANSWER = convert.written_key_to_proto(WRITTEN_KEY)
_PROJECT_ANSWER = convert.written_project_to_proto(CREATED_PROJECT)
_USAGE_ANSWER = convert.usage_page_to_proto(Page((USAGE_ROW,)))

CALLS: list[tuple[str, tuple[Any, ...], dict[str, Any], Message, Message, object]] = [
    (
        "update_key",
        (KEY.access_key,),
        {**_KEY_FIELDS, "disabled": True, "etag": "r7"},
        convert.key_update_to_proto(
            KeyUpdate(
                access_key=KEY.access_key,
                paths=frozenset({*_KEY_FIELDS, "disabled"}),
                **_KEY_FIELDS,
                disabled=True,
                etag="r7",
            )
        ),
        _KEY_ANSWER,
        WRITTEN_KEY,
    ),
    (
        "update_key",
        (KEY.access_key,),
        dict.fromkeys(_KEY_FIELDS),
        convert.key_update_to_proto(
            KeyUpdate(access_key=KEY.access_key, paths=frozenset(_KEY_FIELDS))
        ),
        _KEY_ANSWER,
        WRITTEN_KEY,
    ),
    (
        "update_key",
        (KEY.access_key,),
        {"purpose": UNCHANGED, "disabled": False},
        convert.key_update_to_proto(
            KeyUpdate(access_key=KEY.access_key, paths=frozenset({"disabled"}))
        ),
        _KEY_ANSWER,
        WRITTEN_KEY,
    ),
    (
        "update_project",
        (PROJECT_ID,),
        {**_PROJECT_FIELDS, "suspended": True, "etag": "r3"},
        convert.project_update_to_proto(
            ProjectUpdate(
                project_id=PROJECT_ID,
                paths=frozenset({*_PROJECT_FIELDS, "suspended"}),
                **_PROJECT_FIELDS,
                suspended=True,
                etag="r3",
            )
        ),
        _PROJECT_ANSWER,
        CREATED_PROJECT,
    ),
    (
        "update_project",
        (PROJECT_ID,),
        dict.fromkeys(_PROJECT_FIELDS),
        convert.project_update_to_proto(
            ProjectUpdate(project_id=PROJECT_ID, paths=frozenset(_PROJECT_FIELDS))
        ),
        _PROJECT_ANSWER,
        CREATED_PROJECT,
    ),
    (
        "rotate_key",
        (KEY.access_key,),
        {"overlap": timedelta(0), "expire_time": at(60), "request_id": "id"},
        convert.rotation_to_proto(
            Rotation(
                access_key=KEY.access_key,
                overlap=timedelta(0),
                expire_time=at(60),
                request_id="id",
            )
        ),
        convert.rotated_key_to_proto(ROTATED),
        ROTATED,
    ),
    (
        "rotate_key",
        (KEY.access_key,),
        {"request_id": "id"},
        convert.rotation_to_proto(Rotation(access_key=KEY.access_key, request_id="id")),
        convert.rotated_key_to_proto(ROTATED),
        ROTATED,
    ),
    (
        "get_usage",
        (PROJECT_ID,),
        {
            "access_key": KEY.access_key,
            "start_time": at(0),
            "end_time": at(3600),
            "granularity": "day",
            "page_size": 7,
        },
        convert.usage_query_to_proto(
            UsageQuery(
                project_id=PROJECT_ID,
                access_key=KEY.access_key,
                start_time=at(0),
                end_time=at(3600),
                granularity=UsageGranularity.DAY,
                page_size=7,
            )
        ),
        _USAGE_ANSWER,
        [USAGE_ROW],
    ),
    (
        "report_usage",
        ([USAGE_ROW],),
        {"batch_id": "id"},
        convert.usage_report_to_proto(UsageReport(batch_id="id", rows=(USAGE_ROW,))),
        ReportUsageResponse(),
        None,
    ),
]


@pytest.mark.parametrize(("method", "args", "kwargs", "request_", "answer", "result"), CALLS)
def test_change_call_sends_its_arguments_and_returns_the_model(
    call: Call,
    authority: FakeAuthority,
    method: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    request_: Message,
    answer: Message,
    result: object,
) -> None:
    """Given fields are in the mask, None clears, omitted fields stay."""
    authority.will(answer)

    assert call(method, *args, **kwargs) == result
    assert [seen.request for seen in authority.seen] == [request_]


def test_usage_continues_until_the_last_page(call: Call, authority: FakeAuthority) -> None:
    """All pages are one list, each requested with the first query."""
    authority.will(convert.usage_page_to_proto(Page((USAGE_ROW,), "second")), _USAGE_ANSWER)

    assert call("get_usage", PROJECT_ID, granularity="day") == [USAGE_ROW, USAGE_ROW]

    expected = [("", UsageGranularity.DAY), ("second", UsageGranularity.DAY)]
    queries = [convert.usage_query_from_proto(seen.request) for seen in authority.seen]
    assert expected == [(query.page_token, query.granularity) for query in queries]


def test_unknown_granularity_is_refused_by_name(call: Call, authority: FakeAuthority) -> None:
    """InvalidArgument names the field before anything is sent."""
    with pytest.raises(InvalidArgument) as refused:
        call("get_usage", granularity="week")

    assert [violation.field for violation in refused.value.fields] == ["granularity"]
    assert authority.seen == []


def test_string_in_place_of_permissions_is_refused(call: Call) -> None:
    """Otherwise `permissions="a:b"` would grant three one-letter permissions."""
    with pytest.raises(TypeError, match="permissions"):
        call("update_key", KEY.access_key, permissions="a:b")


def test_unset_marker_explains_itself() -> None:
    """It appears in every signature that help() prints."""
    assert repr(UNCHANGED) == "UNCHANGED"
