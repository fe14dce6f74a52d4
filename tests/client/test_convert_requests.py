"""Requests there and back, and what names a field."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given

from keyauthority import convert
from keyauthority.errors import ErrorReason, InvalidArgument
from keyauthority.model import KeyFilter, KeyKind
from keyauthority.requests import NewKey, NewProject, Revocation
from keyauthority.v1 import key_authority_service_pb2 as service_pb2
from keyauthority.v1 import key_pb2
from keyauthority.v1.key_authority_service_pb2 import (
    CreateKeyRequest,
    RevokeKeyRequest,
    VerifyRequest,
)
from keyauthority.v1.project_service_pb2 import CreateProjectRequest
from tests.client.strategies import at, key_filters, new_keys, new_projects, revocations


@given(new_keys)
def test_a_request_for_a_key_there_and_back_is_the_same(new: NewKey) -> None:
    """What is asked of CreateKey arrives whole."""
    sent = CreateKeyRequest.FromString(convert.new_key_to_proto(new).SerializeToString())

    assert convert.new_key_from_proto(sent) == new


@given(new_projects)
def test_a_request_for_a_project_there_and_back_is_the_same(new: NewProject) -> None:
    """What is asked of CreateProject arrives whole."""
    sent = CreateProjectRequest.FromString(convert.new_project_to_proto(new).SerializeToString())

    assert convert.new_project_from_proto(sent) == new


@given(revocations)
def test_a_revocation_there_and_back_is_the_same(revocation: Revocation) -> None:
    """What is asked of RevokeKey arrives whole."""
    sent = RevokeKeyRequest.FromString(convert.revocation_to_proto(revocation).SerializeToString())

    assert convert.revocation_from_proto(sent) == revocation


@given(key_filters)
def test_a_filter_there_and_back_is_the_same(wanted: KeyFilter) -> None:
    """What is asked of ListKeys arrives whole."""
    sent = service_pb2.KeyFilter.FromString(convert.key_filter_to_proto(wanted).SerializeToString())

    assert convert.key_filter_from_proto(sent) == wanted


def test_two_endings_are_refused() -> None:
    """The proto holds one of expire_time and ttl; neither is dropped in silence."""
    with pytest.raises(ValueError, match="not both"):
        convert.new_key_to_proto(
            NewKey(kind=KeyKind.SECRET, expire_time=at(0), ttl=timedelta(days=1))
        )


def test_a_secret_is_not_in_the_text_of_a_revocation() -> None:
    """The repr of a request may be logged."""
    assert "sk_" not in repr(Revocation(secret_key="sk_test_secret"))


_NO_VALUE: Any = 99  # of any enum
_BAD_TIME = Timestamp(seconds=2**62)
_BAD_SPAN = Duration(seconds=2**62)
_BAD_LIMIT = key_pb2.RateLimit(limit=1, period=_BAD_SPAN)


@pytest.mark.parametrize(
    ("read", "proto", "field"),
    [
        (convert.new_key_from_proto, CreateKeyRequest(mode=_NO_VALUE), "mode"),
        (convert.new_key_from_proto, CreateKeyRequest(kind=_NO_VALUE), "kind"),
        (convert.new_key_from_proto, CreateKeyRequest(expire_time=_BAD_TIME), "expire_time"),
        (convert.new_key_from_proto, CreateKeyRequest(ttl=_BAD_SPAN), "ttl"),
        (convert.new_key_from_proto, CreateKeyRequest(rate_limit=_BAD_LIMIT), "rate_limit.period"),
        (convert.new_key_from_proto, CreateKeyRequest(quota=key_pb2.Quota()), "quota.period"),
        (
            convert.new_project_from_proto,
            CreateProjectRequest(rate_limit=_BAD_LIMIT),
            "rate_limit.period",
        ),
        (convert.revocation_from_proto, RevokeKeyRequest(reason=_NO_VALUE), "reason"),
        (convert.key_filter_from_proto, service_pb2.KeyFilter(mode=_NO_VALUE), "filter.mode"),
        (convert.key_filter_from_proto, service_pb2.KeyFilter(kind=_NO_VALUE), "filter.kind"),
        (convert.key_filter_from_proto, service_pb2.KeyFilter(state=_NO_VALUE), "filter.state"),
        (
            convert.key_filter_from_proto,
            service_pb2.KeyFilter(expires_before=_BAD_TIME),
            "filter.expires_before",
        ),
        (
            convert.key_filter_from_proto,
            service_pb2.KeyFilter(used_before=_BAD_TIME),
            "filter.used_before",
        ),
        (convert.verify_query_from_proto, VerifyRequest(mode=_NO_VALUE), "mode"),
        (
            lambda item: convert.batch_item_from_proto(1, item),
            VerifyRequest(mode=_NO_VALUE),
            "requests[1].mode",
        ),
    ],
)
def test_a_value_that_the_model_cannot_hold_names_its_field(
    read: Callable[[Any], object], proto: object, field: str
) -> None:
    """A request is never read as if it had not asked: the field is named instead."""
    with pytest.raises(InvalidArgument) as refused:
        read(proto)

    assert refused.value.reason is ErrorReason.INVALID_FIELD
    assert [violation.field for violation in refused.value.fields] == [field]
