"""Conversion of errors: the whole table, and unreadable details."""

from __future__ import annotations

from datetime import timedelta

import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from keyauthority.convert import REASON_TO_NAME, error_from_status, status_from_error
from keyauthority.errors import (
    REASONS,
    TYPES,
    ErrorReason,
    FieldViolation,
    KeyAuthorityError,
    NotFound,
    Unavailable,
    error,
)
from keyauthority.v1.error_reason_pb2 import ErrorReason as ProtoReason


def test_reasons_match_the_proto() -> None:
    """Both enumerations have exactly the same names."""
    assert set(REASON_TO_NAME.values()) | {"ERROR_REASON_UNSPECIFIED"} == set(ProtoReason.keys())
    assert set(REASONS) == set(ErrorReason)


@pytest.mark.parametrize("reason", REASONS)
def test_error_roundtrips(reason: ErrorReason) -> None:
    """Each reason arrives as its exception with all details."""
    sent = error(
        reason,
        "what happened",
        metadata={"permission": "keys:read"},
        fields=[FieldViolation("requests[3].mode", "is not one")],
        retry_after=timedelta(milliseconds=1500),
    )

    back = error_from_status(Status.FromString(status_from_error(sent).SerializeToString()))

    assert type(back) is REASONS[reason]
    assert vars(back) == vars(sent)


@pytest.mark.parametrize("kind", TYPES)
def test_error_without_a_reason_keeps_its_type(kind: type[KeyAuthorityError]) -> None:
    """A transport failure has no reason; its code determines the type."""
    back = error_from_status(status_from_error(kind("gone")))

    assert (type(back), back.message, back.reason) == (kind, "gone", None)


def test_status_has_code_domain_and_full_reason_name() -> None:
    """Other languages read the contract's section 6."""
    status = status_from_error(error(ErrorReason.KEY_NOT_FOUND, "no such key"))
    info = ErrorInfo()
    unpacked = status.details[0].Unpack(info)

    assert (status.code, status.message) == (Code.Value("NOT_FOUND"), "no such key")
    assert unpacked
    assert info == ErrorInfo(domain="keyauthority", reason="ERROR_REASON_KEY_NOT_FOUND")


def test_fields_and_retry_use_standard_details() -> None:
    """Invalid input is a BadRequest, overload a RetryInfo."""
    status = status_from_error(
        KeyAuthorityError(
            "no", fields=[FieldViolation("mode", "bad")], retry_after=timedelta(seconds=2)
        )
    )

    assert [detail.TypeName() for detail in status.details] == [
        BadRequest.DESCRIPTOR.full_name,
        RetryInfo.DESCRIPTOR.full_name,
    ]


@pytest.mark.parametrize("name", ["CANCELLED", "UNKNOWN", "DATA_LOSS", "OUT_OF_RANGE"])
def test_unexpected_code_is_unavailable(name: str) -> None:
    """Without the server's answer the token is neither valid nor denied."""
    assert type(error_from_status(Status(code=Code.Value(name)))) is Unavailable


def _packed(message: ErrorInfo | RetryInfo) -> Any:
    detail = Any()
    detail.Pack(message)
    return detail


@pytest.mark.parametrize(
    "detail",
    [
        Any(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff\xff"),
        Any(type_url="type.googleapis.com/no.such.Message", value=b"x"),
        _packed(ErrorInfo(domain="elsewhere", reason="ERROR_REASON_KEY_NOT_FOUND")),
        _packed(ErrorInfo(domain="keyauthority", reason="ERROR_REASON_NOT_YET_INVENTED")),
        _packed(RetryInfo(retry_delay=Duration(seconds=2**62))),
    ],
)
def test_unreadable_detail_is_ignored(detail: Any) -> None:
    """An error is never replaced by a failure to read its details."""
    status = Status(code=Code.Value("NOT_FOUND"), message="gone", details=[detail])

    back = error_from_status(status)

    assert (type(back), back.message, back.reason) == (NotFound, "gone", None)
    assert back.retry_after is None
