"""Errors as Connect sends them: an HTTP status and a JSON object."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, NamedTuple

from google.protobuf import json_format
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from keyauthority.errors import ErrorReason, error
from keyauthority_server.overload.errors import prepared
from keyauthority_server.rpc_types import RpcError, internal_error

Headers = tuple[tuple[bytes, bytes], ...]

JSON: Final = b"application/json"
ERRORS_KEPT: Final = 256  # encoded, at most 8 KiB each; most errors of a flood are equal

# https://connectrpc.com/docs/protocol#error-codes
STATUSES: Final = {
    "CANCELLED": 499,
    "UNKNOWN": 500,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403,
    "RESOURCE_EXHAUSTED": 429,
    "FAILED_PRECONDITION": 400,
    "ABORTED": 409,
    "OUT_OF_RANGE": 400,
    "UNIMPLEMENTED": 501,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DATA_LOSS": 500,
    "UNAUTHENTICATED": 401,
}
_DETAILS: Final = (ErrorInfo, BadRequest, RetryInfo)


class EncodedError(NamedTuple):
    """An error, ready to be sent as JSON."""

    status: int
    headers: Headers
    body: bytes


class HttpError(Exception):
    """An error with a status of HTTP's own."""

    def __init__(self, status: int, cause: RpcError, *headers: tuple[bytes, bytes]) -> None:
        super().__init__(cause.message)
        self.status = status
        self.cause = cause
        self.headers = headers


Refusal = Callable[[], HttpError]


def _refusal(
    status: int,
    message: str,
    *headers: tuple[bytes, bytes],
    reason: ErrorReason = ErrorReason.INVALID_MESSAGE,
) -> Refusal:
    make = prepared(error(reason, message))
    return lambda: HttpError(status, make(), *headers)


bad_request: Final = _refusal(400, "malformed HTTP request")
bad_host: Final = _refusal(400, "malformed HTTP request: send one host header")
bad_version: Final = _refusal(400, "connect-protocol-version must be 1")
bad_timeout: Final = _refusal(400, "connect-timeout-ms must be a number of 1 to 10 digits")
repeated: Final = _refusal(400, "malformed HTTP request: a header is repeated")
bad_gzip: Final = _refusal(400, "malformed request: the body is not gzip")
bad_envelope: Final = _refusal(400, "malformed request: the body is not one enveloped message")
bad_encoding: Final = _refusal(
    501, "unknown content encoding: send gzip or identity", reason=ErrorReason.UNIMPLEMENTED
)
no_method: Final = _refusal(404, "the server has no such method", reason=ErrorReason.UNIMPLEMENTED)
post_only: Final = _refusal(405, "use POST", (b"allow", b"POST"), reason=ErrorReason.UNIMPLEMENTED)
get_only: Final = _refusal(405, "use GET", (b"allow", b"GET"), reason=ErrorReason.UNIMPLEMENTED)
unary_types: Final = _refusal(
    415,
    "content-type must be application/json or application/proto",
    (b"accept-post", b"application/json, application/proto"),
)
stream_types: Final = _refusal(
    415,
    "content-type must be application/connect+json",
    (b"accept-post", b"application/connect+json"),
)
body_too_large: Final = _refusal(
    413, "the request message is larger than 4 MiB", reason=ErrorReason.MESSAGE_TOO_LARGE
)
head_too_large: Final = _refusal(
    431, "the request headers are larger than 8 KiB", reason=ErrorReason.MESSAGE_TOO_LARGE
)


def encode(failure: Exception) -> EncodedError:
    """Return the answer to a failed call; INTERNAL for an exception that is no error of a call."""
    if isinstance(failure, HttpError):
        known = _encoded(failure.cause.code, failure.cause.message, failure.cause.status)
        return EncodedError(failure.status, known.headers + failure.headers, known.body)
    cause = failure if isinstance(failure, RpcError) else internal_error(failure)
    return _encoded(cause.code, cause.message, cause.status)


def end_of_stream(failure: Exception | None) -> bytes:
    """Return the JSON that ends a stream."""
    return b"{}" if failure is None else b'{"error":' + encode(failure).body + b"}"


@lru_cache(maxsize=ERRORS_KEPT)
def _encoded(code: int, message: str, status: bytes) -> EncodedError:
    name = Code.Name(code)
    details, headers = [], []
    for packed in Status.FromString(status).details:
        detail: dict[str, Any] = {
            "type": packed.type_url.rpartition("/")[2],
            "value": base64.b64encode(packed.value).decode().rstrip("="),
        }
        for kind in _DETAILS:
            unpacked = kind()
            if packed.Unpack(unpacked):
                detail["debug"] = json_format.MessageToDict(unpacked)
                if isinstance(unpacked, RetryInfo):
                    seconds = math.ceil(unpacked.retry_delay.ToTimedelta().total_seconds())
                    headers.append((b"retry-after", b"%d" % seconds))
        details.append(detail)
    answer = {"code": name.lower().replace("cancelled", "canceled"), "message": message}
    return EncodedError(
        STATUSES[name],
        tuple(headers),
        json.dumps(answer | ({"details": details} if details else {})).encode(),
    )
