"""The sans-IO half of each RPC: requests from arguments, results from answers, errors from codes.

`client` and `aio` add the waiting, and nothing else. Here is what becomes of every call;
the modules hold the requests, one for each group of RPCs.
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


def answer(read: Callable[[A], R], response: A) -> R:
    """Return what the response says. Internal if it says what this version cannot read."""
    try:
        return read(response)
    except ValueError as error:
        raise Internal(f"the answer cannot be read: {error}") from None


def closed() -> FailedPrecondition:
    """Return the error of a call by a client that was closed."""
    return FailedPrecondition("the client is closed")


def error_of(failed: grpc.RpcError, address: str) -> KeyAuthorityError:
    """Return the error of a call that failed, at the authority or on the way to it."""
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
