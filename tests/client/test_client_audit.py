"""Events: conversion, requests of both clients, and command line output."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from keyauthority import convert
from keyauthority.errors import ErrorReason, InvalidArgument, error
from keyauthority.model import ChangeType, Key, KeyMode, Quota, QuotaPeriod
from keyauthority.requests import EventQuery
from keyauthority.results import Event, FieldChange, Page
from keyauthority.v1.audit_service_pb2 import Event as EventProto
from keyauthority.v1.audit_service_pb2 import ListEventsRequest, ListEventsResponse
from tests.client.conftest import Call, Command
from tests.client.fake_authority import FakeAuthority
from tests.client.records import KEY, PROJECT, PROJECT_ID
from tests.client.strategies import at, texts, times

EVENT = Event(
    revision=7,
    time=at(0),
    type=ChangeType.KEY_UPDATED,
    actor="KA0123456789ABCDEFGH",
    peer="127.0.0.1",
    project_id=PROJECT_ID,
    access_key=KEY.access_key,
    changed=(FieldChange("disabled", "", "true"), FieldChange("purpose", '"a"', '"\x1b[31m"')),
    hash=b"\x01" * 32,
    previous_hash=b"\x02" * 32,
)
ANSWER = convert.event_page_to_proto(Page((EVENT,)))
QUERY = EventQuery(
    project_id=PROJECT_ID,
    access_key=KEY.access_key,
    actor="x",
    start_time=at(0),
    end_time=at(60),
    page_size=7,
)

queries = st.builds(
    EventQuery,
    project_id=texts,
    access_key=texts,
    actor=texts,
    start_time=st.none() | times,
    end_time=st.none() | times,
    page_size=st.integers(-(2**31), 2**31 - 1),
    page_token=texts,
)


@given(queries)
def test_event_query_roundtrips(query: EventQuery) -> None:
    """A ListEvents request survives conversion in every field."""
    sent = ListEventsRequest.FromString(convert.event_query_to_proto(query).SerializeToString())

    assert convert.event_query_from_proto(sent) == query


def test_event_page_roundtrips() -> None:
    """Every field of an event has one in the proto and survives."""
    page = Page((EVENT, replace(EVENT, changed=())), "next")
    sent = ListEventsResponse.FromString(convert.event_page_to_proto(page).SerializeToString())

    assert convert.event_page_from_proto(sent) == page
    assert {one.name for one in EventProto.DESCRIPTOR.fields} == set(Event.__dataclass_fields__)


def test_unreadable_event_is_refused() -> None:
    """An unknown type is no event; an invalid time names its field."""
    with pytest.raises(ValueError, match="type"):
        convert.event_page_from_proto(ListEventsResponse(events=[EventProto()]))
    with pytest.raises(InvalidArgument) as refused:
        convert.event_query_from_proto(ListEventsRequest(end_time=Timestamp(seconds=2**62)))
    assert [violation.field for violation in refused.value.fields] == ["end_time"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, []),
        ({"revision": 9, "update_time": at(9), "last_used_time": at(9)}, []),
        ({"disabled": True}, [("disabled", "", "true")]),
        ({"mode": KeyMode.TEST}, [("mode", '"KEY_MODE_LIVE"', '"KEY_MODE_TEST"')]),
        ({"expire_time": None}, [("expire_time", '"2026-11-24T12:00:00Z"', "")]),
        (
            {"labels": {"b": "é", "a": "1"}},
            [("labels", '{"team": "billing"}', '{"a": "1", "b": "é"}')],
        ),
        (
            {"quota": Quota(5, QuotaPeriod.DAY)},
            [("quota", "", '{"limit": "5", "period": "QUOTA_PERIOD_DAY"}')],
        ),
    ],
)
def test_event_lists_changed_fields_in_proto_terms(
    fields: dict[str, Any], expected: list[tuple[str, str, str]]
) -> None:
    """The changed fields with their JSON, without those that always change."""
    before: Key = replace(KEY, expire_time=at(86_400))
    found = convert.field_changes(before, replace(before, **fields), "KA.")

    time = convert.timestamp(at(86_400)).ToJsonString()
    assert [
        FieldChange(f"KA.{name}", old.replace("2026-11-24T12:00:00Z", time), new)
        for name, old, new in expected
    ] == list(found)


def test_created_record_lists_all_set_fields() -> None:
    """There was no record before it."""
    assert {"project_id", "display_name", "create_time"} == {
        one.field for one in convert.field_changes(None, PROJECT) if not one.before
    }


def test_events_are_paged_with_one_query(call: Call, authority: FakeAuthority) -> None:
    """All pages are one list, each requested with the first query."""
    authority.will(convert.event_page_to_proto(Page((EVENT,), "second")), ANSWER)

    assert [EVENT, EVENT] == call(
        "list_events",
        PROJECT_ID,
        access_key=KEY.access_key,
        actor="x",
        start_time=at(0),
        end_time=at(60),
        page_size=7,
    )

    expected = [QUERY, replace(QUERY, page_token="second")]
    assert expected == [convert.event_query_from_proto(one.request) for one in authority.seen]


def test_event_page_is_retried(call: Call, authority: FakeAuthority) -> None:
    """Reads are retried on UNAVAILABLE."""
    authority.will(error(ErrorReason.STORE_UNAVAILABLE, "down"), ANSWER)

    assert [EVENT] == call("list_events")
    assert len(authority.seen) == 2


def test_events_command_prints_a_table(command: Command, authority: FakeAuthority) -> None:
    """Options have the names of fields; the table is safe for any terminal."""
    authority.will(ANSWER)
    options = (
        f"{KEY.access_key} --project-id {PROJECT_ID} --actor x"
        f" --start-time {at(0).isoformat()} --end-time {at(60).isoformat()}"
    )

    shown = command("audit", *options.split())

    sent = convert.event_query_from_proto(authority.seen[0].request)
    assert replace(QUERY, page_size=1000) == sent
    assert (0, "") == (shown.code, shown.err)
    for text in ("7", "key_updated", EVENT.actor, EVENT.peer, "disabled: - > true"):
        assert text in shown.out
    assert "\x1b" not in shown.out


def test_events_command_prints_json(command: Command, authority: FakeAuthority) -> None:
    """The proto's JSON: lowerCamelCase, hashes in base64."""
    authority.will(ANSWER)

    (event,) = json.loads(command("audit", "--json").out)["events"]

    assert ("7", "CHANGE_TYPE_KEY_UPDATED") == (event["revision"], event["type"])
    assert {"field": "disabled", "before": "", "after": "true"} == event["changed"][0]
    assert "previousHash" in event
