"""Errors <-> google.rpc.Status (google.rpc error model). Independent of grpc: numbers only."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Final

from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError, Message
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from keyauthority.convert.enums import REASON_FROM_NAME, REASON_TO_NAME
from keyauthority.convert.times import duration, to_timedelta
from keyauthority.errors import TYPES, FieldViolation, KeyAuthorityError, Unavailable

DOMAIN: Final = "keyauthority"
"""The domain of every ErrorInfo."""

_TYPE_OF: Final = {int(Code.Value(error_type.status)): error_type for error_type in TYPES}


def status_from_error(error: KeyAuthorityError) -> Status:
    """Return the status of the error: code, message and details."""
    status = Status(code=Code.Value(error.status), message=error.message)
    for detail in _details(error):
        status.details.add().Pack(detail)
    return status


def _details(error: KeyAuthorityError) -> Iterator[Message]:
    if error.reason is not None:
        yield ErrorInfo(domain=DOMAIN, reason=REASON_TO_NAME[error.reason], metadata=error.metadata)
    if error.fields:
        yield BadRequest(
            field_violations=[
                BadRequest.FieldViolation(field=field, description=description)
                for field, description in error.fields
            ]
        )
    if error.retry_after is not None:
        yield RetryInfo(retry_delay=duration(error.retry_after))


def error_from_status(status: Status) -> KeyAuthorityError:
    """Return the error of a status. Never raises.

    A code that the authority never sends comes from the transport and becomes Unavailable. Invalid
    details, and those of another domain, are ignored.
    """
    info, violations, retry = ErrorInfo(), BadRequest(), RetryInfo()
    for detail in status.details:
        for message in (info, violations, retry):
            _unpack(detail, message)
    ours = info.domain == DOMAIN
    return _TYPE_OF.get(status.code, Unavailable)(
        status.message,
        REASON_FROM_NAME.get(info.reason) if ours else None,
        metadata=info.metadata if ours else None,
        fields=[
            FieldViolation(violation.field, violation.description)
            for violation in violations.field_violations
        ],
        retry_after=_delay(retry),
    )


def _unpack(detail: Any, message: Message) -> None:
    try:
        detail.Unpack(message)
    except DecodeError:
        message.Clear()


def _delay(retry: RetryInfo) -> timedelta | None:
    if not retry.HasField("retry_delay"):
        return None
    try:
        return to_timedelta(retry.retry_delay)
    except ValueError:
        return None
