"""What happens around every call: reading, admission, checking, answering, failing, counting.

It is put around each method once, at registration, so that a call pays for nothing but itself.
Whatever a method raises leaves here as a status that tells the caller what he may know: an error of
the contract as itself, anything else as INTERNAL with a correlation id that the log has too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Final, Protocol

import structlog
from google.protobuf.message import DecodeError, Message
from google.rpc.code_pb2 import Code

from keyauthority.clock import ClockJumped
from keyauthority.errors import ErrorReason, FieldViolation, KeyAuthorityError, error
from keyauthority_server.authority import Authority, Caller
from keyauthority_server.rpc.credentials import credential_of
from keyauthority_server.rpc.policy import Admission, Row
from keyauthority_server.store.base import StoreClosed, StoreError, StoreFull, StoreStale
from keyauthority_server.wire import Answer, Call, Refusal, refusal_from, unexpected

Serve = Callable[[Call, Message | None], Awaitable[Any]]
"""A method that has its message; gives the answer's, for `remembered` with what it rests on."""
Check = Callable[[Any], list[FieldViolation]]

VIOLATIONS_MAX: Final = 10  # named in one answer, each twice: clients take 8 KiB of trailers
DISK_RETRY_AFTER: Final = timedelta(minutes=1)  # somebody has to make space first
_log = structlog.get_logger(__name__)


class CallMetrics(Protocol):
    """Counts the calls of one method."""

    def finished(self, code: str, seconds: float) -> None:
        """Count one call that ended with a status code."""
        ...


def read(request_type: type[Message], body: bytes) -> Message | None:
    """Return the message, None if it is none: a stranger learns nothing of messages.

    So it is refused after admission.
    """
    try:
        return request_type.FromString(body)
    except DecodeError:
        return None


def packed(request_type: type[Message], serve: Serve) -> Answer:
    """Return the method as bytes in, bytes out."""

    async def answer(body: bytes, call: Call) -> bytes:
        message: Message = await serve(call, read(request_type, body))
        return message.SerializeToString()

    return answer


def unary(serve: Answer, metrics: CallMetrics | None) -> Answer:
    """Return the method as a transport takes it: whatever it raises leaves as a Refusal."""

    async def answer(body: bytes, call: Call) -> bytes:
        started = time.perf_counter()
        code = "OK"
        try:
            return await serve(body, call)
        except asyncio.CancelledError:  # the caller has gone, or his deadline has come
            code = "CANCELLED"
            raise
        except Exception as failure:  # noqa: BLE001 - the last mapper: nothing may pass it
            refusal = refusal_of(failure)
            code = Code.Name(refusal.code)
            raise refusal from None
        finally:
            if metrics is not None:
                metrics.finished(code, time.perf_counter() - started)

    return answer


def guard(authority: Authority, row: Row, check: Check, method: Callable[..., Any]) -> Serve:
    """Return `method` behind its admission and its check, in the contract's order of errors.

    It gets the Caller for OPERATOR, the Credential for TOGETHER, the Call otherwise.
    """
    if row.admission is Admission.OPERATOR:

        async def admitted(call: Call, request: Message | None) -> Any:
            caller = await authority.admit(credential_of(call), row.rights)
            _require(caller, row, request)
            refuse(check, request)
            return await method(caller, request)

        return admitted
    if row.admission is Admission.TOGETHER:

        async def together(call: Call, request: Message | None) -> Any:
            credential = credential_of(call)
            try:
                refuse(check, request)
            except KeyAuthorityError:
                _require(await authority.admit(credential, row.rights), row, request)
                raise
            return await method(credential, request)

        return together

    async def by_secret(call: Call, request: Message | None) -> Any:
        return await method(call, request)

    return by_secret


def _require(caller: Caller, row: Row, request: Message | None) -> None:
    right = row.needs(request) if row.needs and request is not None else ""
    if right:
        caller.require(right)


def refuse(check: Check, request: Message | None) -> None:
    """Raise InvalidArgument, naming the fields, unless the request keeps its rules."""
    if request is None:
        raise error(ErrorReason.INVALID_MESSAGE, "the bytes are no message of the request's type")
    violations = list(dict.fromkeys(check(request)))
    if violations:
        named = violations[:VIOLATIONS_MAX]
        texts = [f"{one.field}: {one.description}" for one in named]
        if len(violations) > len(named):
            texts.append(f"and {len(violations) - len(named)} more")
        raise error(ErrorReason.INVALID_FIELD, "; ".join(texts), fields=named)


def refusal_of(failure: Exception) -> Refusal:
    """Return what the caller may know of a failure, whatever it is."""
    known = _known(failure)
    return unexpected(failure) if known is None else refusal_from(known)


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
    if isinstance(failure, StoreClosed):
        return error(ErrorReason.STORE_CLOSED, "this store was closed for writing")
    return error(ErrorReason.STORE_UNAVAILABLE, "the store cannot answer now")
