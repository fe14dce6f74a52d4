"""Advisories: conversion, and requests of both clients."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st

from keyauthority import convert
from keyauthority.errors import ErrorReason, InvalidArgument, error
from keyauthority.model import AdvisoryType
from keyauthority.requests import AdvisoryQuery
from keyauthority.results import Advisory, Page
from keyauthority.v1 import advisory_service_pb2 as pb
from tests.client.conftest import Call, Command
from tests.client.fake_authority import FakeAuthority
from tests.client.records import KEY, PROJECT_ID
from tests.client.strategies import at, spans, texts

ADVISORY = Advisory(
    type=AdvisoryType.CANARY_USED,
    access_key=KEY.access_key,
    project_id=PROJECT_ID,
    since_time=at(0),
    last_time=at(60),
    count=3,
    last_peer="192.0.2.7",
    permissions=("orders:read",),
    remedy="Find out who uses it.",
)
ANSWER = convert.advisory_page_to_proto(Page((ADVISORY,)))

queries = st.builds(
    AdvisoryQuery,
    project_id=texts,
    types=st.lists(st.sampled_from(AdvisoryType), max_size=3).map(tuple),
    dormant_after=st.none() | spans,
    expires_within=st.none() | spans,
    page_size=st.integers(-(2**31), 2**31 - 1),
    page_token=texts,
)


@given(queries)
def test_advisory_query_roundtrips(query: AdvisoryQuery) -> None:
    """A ListAdvisories request survives conversion in every field."""
    sent = convert.advisory_query_to_proto(query).SerializeToString()

    assert convert.advisory_query_from_proto(pb.ListAdvisoriesRequest.FromString(sent)) == query


@pytest.mark.parametrize("advisory_type", AdvisoryType)
def test_advisory_page_roundtrips(advisory_type: AdvisoryType) -> None:
    """Every type and every field of an advisory survives; a key never presented has no time."""
    advisory = replace(ADVISORY, type=advisory_type)
    page = Page((advisory, replace(advisory, last_time=None)), "next")
    sent = convert.advisory_page_to_proto(page).SerializeToString()

    assert convert.advisory_page_from_proto(pb.ListAdvisoriesResponse.FromString(sent)) == page
    assert {one.name for one in pb.Advisory.DESCRIPTOR.fields} == set(Advisory.__dataclass_fields__)


def test_unreadable_advisory_is_refused() -> None:
    """A type of a newer server is a ValueError; a bad value of a request names its field."""
    unknown: Any = 99
    with pytest.raises(ValueError, match="type"):
        convert.advisory_page_from_proto(
            pb.ListAdvisoriesResponse(advisories=[pb.Advisory(type=unknown)])
        )
    for request, field in (
        (pb.ListAdvisoriesRequest(types=[pb.ADVISORY_TYPE_OLD, unknown]), "types[1]"),
        (pb.ListAdvisoriesRequest(types=[pb.ADVISORY_TYPE_UNSPECIFIED]), "types[0]"),
        (pb.ListAdvisoriesRequest(dormant_after=Duration(seconds=2**62)), "dormant_after"),
    ):
        with pytest.raises(InvalidArgument) as refused:
            convert.advisory_query_from_proto(request)
        assert [violation.field for violation in refused.value.fields] == [field]


def test_advisories_are_paged_with_one_query(call: Call, authority: FakeAuthority) -> None:
    """All pages are one list, each requested with the first query; reads are retried."""
    first = convert.advisory_page_to_proto(Page((ADVISORY,), "second"))
    authority.will(error(ErrorReason.STORE_UNAVAILABLE, "down"), first, ANSWER)

    assert [ADVISORY, ADVISORY] == call(
        "list_advisories",
        PROJECT_ID,
        types=["canary_used", AdvisoryType.OLD],
        dormant_after=timedelta(days=1),
        expires_within=timedelta(days=2),
        page_size=7,
    )

    query = AdvisoryQuery(
        project_id=PROJECT_ID,
        types=(AdvisoryType.CANARY_USED, AdvisoryType.OLD),
        dormant_after=timedelta(days=1),
        expires_within=timedelta(days=2),
        page_size=7,
    )
    expected = [query, query, replace(query, page_token="second")]
    assert expected == [convert.advisory_query_from_proto(one.request) for one in authority.seen]


def test_unknown_advisory_type_is_refused_before_a_call(
    call: Call, authority: FakeAuthority
) -> None:
    """The error names the field and the types."""
    with pytest.raises(InvalidArgument, match="types: is one of dormant, never_used"):
        call("list_advisories", types=["stale"])
    assert not authority.seen


def test_advisories_command_prints_a_table(command: Command, authority: FakeAuthority) -> None:
    """Options have the names of fields; types are words in lower case."""
    authority.will(ANSWER)

    shown = command(
        *("advisories", "--project-id", PROJECT_ID, "--type", "canary_used", "--type", "old"),
        *("--dormant-after", "1d", "--expires-within", "2d"),
    )

    sent = convert.advisory_query_from_proto(authority.seen[0].request)
    expected = AdvisoryQuery(
        project_id=PROJECT_ID,
        types=(AdvisoryType.CANARY_USED, AdvisoryType.OLD),
        dormant_after=timedelta(days=1),
        expires_within=timedelta(days=2),
        page_size=1000,
    )
    assert expected == sent
    assert (0, "") == (shown.code, shown.err)
    for text in (KEY.access_key, "canary_used", "192.0.2.7", "orders:read", ADVISORY.remedy):
        assert text in shown.out


def test_advisories_command_has_every_form(command: Command, authority: FakeAuthority) -> None:
    """JSON of the proto, bare names, CSV and single fields."""
    authority.will(ANSWER)

    (shown,) = json.loads(command("advisories", "--json").out)["advisories"]
    assert ("ADVISORY_TYPE_CANARY_USED", "3") == (shown["type"], shown["count"])
    assert f"{KEY.access_key}\n" == command("advisories", "-o", "name").out
    assert command("advisories", "-o", "csv").out.startswith("access_key,type,since_time,")
    assert "192.0.2.7\n" == command("advisories", "--field", "lastPeer").out


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ("--fail-on canary_used", 1),
        ("--fail-on old --fail-on canary_used --type canary_used --type old", 1),
        ("--fail-on old", 0),
        ("--fail-on stale", 2),
        ("--fail-on old --type canary_used", 2),
        ("--fail-on canary_used --limit 1", 2),
    ],
)
def test_advisories_command_fails_on_named_types(
    command: Command, authority: FakeAuthority, options: str, code: int
) -> None:
    """The list is printed all the same; a list that may be incomplete is refused."""
    authority.will(ANSWER)

    shown = command("advisories", *options.split())

    assert code == shown.code
    assert (code < 2) is (KEY.access_key in shown.out)
