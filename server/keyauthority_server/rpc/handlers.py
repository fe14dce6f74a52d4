"""What happens around every call: reading, admission, checking, answering, failing, counting.

It is put around each method once, at registration, so that a call pays for nothing but itself.
Whatever a method raises leaves here as a status that tells the caller what he may know: an error of
the contract as itself, anything else as INTERNAL with a correlation id that the log has too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from datetime import timedelta
from typing import Any, Final, Protocol

import structlog
from google.protobuf.message import Message
from google.rpc.code_pb2 import Code

from keyauthority.clock import ClockJumped
from keyauthority.errors import (
    ErrorReason,
    FieldViolation,
    InvalidArgument,
    KeyAuthorityError,
    error,
)
from keyauthority_server.rpc.credentials import credential_of
from keyauthority_server.rpc.policy import Admission, RpcPolicy
from keyauthority_server.rpc.request_reader import SCAN_ABOVE, RequestReader, malformed
from keyauthority_server.rpc_types import Call, Handler, RpcError, internal_error, rpc_error_from
from keyauthority_server.services import Authority, Principal
from keyauthority_server.store.interface import StoreError, StoreFull, StoreReadOnly, StoreStale

Serve = Callable[[Call, bytes], Awaitable[Any]]
"""A method that gets its message unparsed; returns the answer's, for `remembered` a `Rested`."""
Check = Callable[[Any], list[FieldViolation]]

VIOLATIONS_MAX: Final = 10  # named in one answer, each twice: clients take 8 KiB of trailers
DISK_RETRY_AFTER: Final = timedelta(minutes=1)  # somebody has to make space first
_log = structlog.get_logger(__name__)


class CallMetrics(Protocol):
    """Counts the calls of one method."""

    def finished(self, code: str, seconds: float) -> None:
        """Count one call that ended with a status code."""
        ...


def serialize(serve: Serve) -> Handler:
    """Return the method as bytes in, bytes out."""

    async def answer(body: bytes, call: Call) -> bytes:
        message: Message = await serve(call, body)
        return message.SerializeToString()

    return answer


def map_errors(serve: Handler, metrics: CallMetrics | None) -> Handler:
    """Return the method as a transport takes it: whatever it raises leaves as a Refusal.

    No variable holds the Refusal: its traceback refers to this frame, and the two would keep the
    request until the garbage collector finds them.
    """

    async def answer(body: bytes, call: Call) -> bytes:
        started = time.perf_counter()
        try:
            answered = await serve(body, call)
        except asyncio.CancelledError:  # the caller has gone, or the deadline has passed
            if metrics is not None:
                metrics.finished("CANCELLED", time.perf_counter() - started)
            raise
        except Exception as failure:  # noqa: BLE001 - the last mapper: nothing may pass it
            raise count_error(rpc_error_of(failure), metrics, started) from None
        if metrics is not None:
            metrics.finished("OK", time.perf_counter() - started)
        return answered

    return answer


def count_error(refusal: RpcError, metrics: CallMetrics | None, started: float) -> RpcError:
    """Return the refusal, counted as the end of a call."""
    if metrics is not None:
        metrics.finished(Code.Name(refusal.code), time.perf_counter() - started)
    return refusal


def authorize(
    authority: Authority,
    row: RpcPolicy,
    reader: RequestReader,
    check: Check,
    method: Callable[..., Any],
) -> Serve:
    """Return `method` behind its admission and its check, in the contract's order of errors.

    It gets the Caller for OPERATOR, the Credential for TOGETHER, the Call otherwise. A message is
    not parsed before its caller is authenticated, unless it is small.
    """
    if row.admission is Admission.OPERATOR:

        async def admitted(call: Call, body: bytes) -> Any:
            caller = await authority.authenticate(credential_of(call), row.rights)
            request = reader.read(body)
            _require(caller, row, request)
            require_valid(check, request)
            return await method(caller, request)

        return admitted
    if row.admission is Admission.OPERATOR_INLINE:

        async def together(call: Call, body: bytes) -> Any:
            credential, request = credential_of(call), None
            if len(body) > SCAN_ABOVE:
                await authority.authenticate(credential, row.rights)
            try:
                request = reader.read(body)
                require_valid(check, request)
                return await method(credential, request)
            except InvalidArgument:  # of a caller who may not even ask, the rights come first
                _require(await authority.authenticate(credential, row.rights), row, request)
                raise

        return together

    async def by_secret(call: Call, body: bytes) -> Any:
        return await method(call, reader.read_or_none(body))

    return by_secret


def _require(caller: Principal, row: RpcPolicy, request: Message | None) -> None:
    right = row.needs(request) if row.needs and request is not None else ""
    if right:
        caller.require(right)


def require_valid(check: Check, request: Message | None) -> None:
    """Raise InvalidArgument, naming the fields, unless the request keeps its rules."""
    if request is None:
        raise malformed()
    require_no_violations(check(request))


def require_no_violations(found: Iterable[FieldViolation]) -> None:
    """Raise InvalidArgument, naming the fields, if there are any."""
    violations = list(dict.fromkeys(found))
    if violations:
        named = violations[:VIOLATIONS_MAX]
        texts = [f"{one.field}: {one.description}" for one in named]
        if len(violations) > len(named):
            texts.append(f"and {len(violations) - len(named)} more")
        raise error(ErrorReason.INVALID_FIELD, "; ".join(texts), fields=named)


def rpc_error_of(failure: Exception) -> RpcError:
    """Return what the caller may know of a failure, whatever it is."""
    known = _known(failure)
    return internal_error(failure) if known is None else rpc_error_from(known)


def _known(failure: Exception) -> KeyAuthorityError | None:
    if isinstance(failure, KeyAuthorityError):
        return failure
    if isinstance(failure, ClockJumped):
        return error(
            ErrorReason.CLOCK_JUMPED, "the clock has jumped; an operator must look at the server"
        )
    if not isinstance(failure, StoreError):
        return None
    if isinstance(failure, StoreStale):  # of as many calls as come
        return error(ErrorReason.STALE, "the server cannot know how stale its answer would be")
    _log.warning("store_failed", failure=str(failure))
    if isinstance(failure, StoreFull):
        return error(
            ErrorReason.DISK_LOW,
            "there is no space left to add anything",
            retry_after=DISK_RETRY_AFTER,
        )
    if isinstance(failure, StoreReadOnly):
        return error(ErrorReason.STORE_CLOSED, "this store was closed for writing")
    return error(ErrorReason.STORE_UNAVAILABLE, "the store cannot answer now")
