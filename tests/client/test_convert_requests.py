"""Conversion of requests, and errors that name the field."""

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
from keyauthority.model import KeyKind
from keyauthority.requests import KeyFilter, NewKey, NewProject, Revocation
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
def test_create_key_request_roundtrips(new: NewKey) -> None:
    """A CreateKey request survives in every field."""
    sent = CreateKeyRequest.FromString(convert.new_key_to_proto(new).SerializeToString())

    assert convert.new_key_from_proto(sent) == new


@given(new_projects)
def test_create_project_request_roundtrips(new: NewProject) -> None:
    """A CreateProject request survives in every field."""
    sent = CreateProjectRequest.FromString(convert.new_project_to_proto(new).SerializeToString())

    assert convert.new_project_from_proto(sent) == new


@given(revocations)
def test_revoke_request_roundtrips(revocation: Revocation) -> None:
    """A RevokeKey request survives in every field."""
    sent = RevokeKeyRequest.FromString(convert.revocation_to_proto(revocation).SerializeToString())

    assert convert.revocation_from_proto(sent) == revocation


@given(key_filters)
def test_list_filter_roundtrips(wanted: KeyFilter) -> None:
    """A ListKeys request survives in every field."""
    sent = service_pb2.KeyFilter.FromString(convert.key_filter_to_proto(wanted).SerializeToString())

    assert convert.key_filter_from_proto(sent) == wanted


def test_expire_time_with_ttl_is_refused() -> None:
    """The proto holds one of them; neither is dropped silently."""
    with pytest.raises(ValueError, match="not both"):
        convert.new_key_to_proto(
            NewKey(kind=KeyKind.SECRET, expire_time=at(0), ttl=timedelta(days=1))
        )


def test_secret_is_not_in_a_revocations_repr() -> None:
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
def test_unrepresentable_value_names_its_field(
    read: Callable[[Any], object], proto: object, field: str
) -> None:
    """A request is never read as if the field were unset."""
    with pytest.raises(InvalidArgument) as refused:
        read(proto)

    assert refused.value.reason is ErrorReason.INVALID_FIELD
    assert [violation.field for violation in refused.value.fields] == [field]
