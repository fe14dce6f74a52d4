"""Errors there and back: the whole table, and what cannot be read."""

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


def test_the_reasons_are_those_of_the_proto() -> None:
    """Every reason has its name in the proto enum, and the proto has no other."""
    assert set(REASON_TO_NAME.values()) | {"ERROR_REASON_UNSPECIFIED"} == set(ProtoReason.keys())
    assert set(REASONS) == set(ErrorReason)


@pytest.mark.parametrize("reason", REASONS)
def test_an_error_there_and_back_is_the_same(reason: ErrorReason) -> None:
    """Each reason arrives as the exception that the table gives it, with all that it says."""
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
def test_an_error_without_a_reason_keeps_its_type(kind: type[KeyAuthorityError]) -> None:
    """What failed on the way has no reason, and its code is enough to tell it by."""
    back = error_from_status(status_from_error(kind("gone")))

    assert (type(back), back.message, back.reason) == (kind, "gone", None)


def test_a_status_has_code_domain_and_full_name_of_the_reason() -> None:
    """Other languages read the contract's section 6."""
    status = status_from_error(error(ErrorReason.KEY_NOT_FOUND, "no such key"))
    info = ErrorInfo()
    unpacked = status.details[0].Unpack(info)

    assert (status.code, status.message) == (Code.Value("NOT_FOUND"), "no such key")
    assert unpacked
    assert info == ErrorInfo(domain="keyauthority", reason="ERROR_REASON_KEY_NOT_FOUND")


def test_fields_and_retry_are_the_standard_details() -> None:
    """Bad input is a BadRequest and a refusal for load a RetryInfo."""
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
def test_a_code_that_the_authority_never_sends_is_unavailable(name: str) -> None:
    """What did not answer has not told: neither valid nor denied."""
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
def test_a_detail_that_cannot_be_read_is_left_out(detail: Any) -> None:
    """An error is never lost behind the failure to read what it says besides."""
    status = Status(code=Code.Value("NOT_FOUND"), message="gone", details=[detail])

    back = error_from_status(status)

    assert (type(back), back.message, back.reason) == (NotFound, "gone", None)
    assert back.retry_after is None
