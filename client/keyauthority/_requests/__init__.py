"""Sans-IO half of every RPC: requests from arguments, results from responses, errors from codes.

It performs no I/O: `client` and `aio` send and wait. Begin with `error_of`, which maps a failed
call to its exception; the modules build the requests, one module per group of RPCs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

import grpc
from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status

from keyauthority import convert
from keyauthority._requests import unreachable
from keyauthority.errors import FailedPrecondition, Internal, KeyAuthorityError

_STATUS_DETAILS: Final = "grpc-status-details-bin"  # where gRPC carries a google.rpc.Status

A = TypeVar("A")
R = TypeVar("R")


def parse_response(read: Callable[[A], R], response: A) -> R:
    """Return the result of a response. Raises Internal if this version cannot parse it."""
    try:
        return read(response)
    except ValueError as error:
        raise Internal(f"cannot parse the response: {error}; upgrade keyauthority") from None


def health_check(*, changes: bool) -> bytes:
    """Return the request of Check: field 1, the service, is `keyauthority.changes` or empty."""
    return b"\x0a\x14keyauthority.changes" if changes else b""


def is_serving(response: bytes) -> bool:
    """Return the result of Check of grpc.health.v1.Health: field 1, the status, is SERVING."""
    return response == b"\x08\x01"


def closed() -> FailedPrecondition:
    """Return the error of a call on a closed client."""
    return FailedPrecondition("the client is closed")


def error_of(failed: grpc.RpcError, address: str) -> KeyAuthorityError:
    """Return the exception of a failed call, from the authority or from the transport."""
    if not isinstance(failed, (grpc.Call, grpc.aio.AioRpcError)):
        return Internal("the call failed without a status")
    number, _ = failed.code().value
    for name, value in failed.trailing_metadata() or ():
        if name == _STATUS_DETAILS and isinstance(value, bytes):
            status = _status(value)
            if status is not None and status.code == number:
                return convert.error_from_status(status)
    message = failed.details() or ""
    if failed.code() is grpc.StatusCode.UNAVAILABLE:
        message = unreachable.unavailable(address, message)
    elif failed.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        message = unreachable.unanswered(address)
    return convert.error_from_status(Status(code=number, message=message))


def _status(details: bytes) -> Status | None:
    try:
        return Status.FromString(details)
    except DecodeError:
        return None
