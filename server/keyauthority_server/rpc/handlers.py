"""Wrappers around every unary method: authorize, parse, validate, serialize, map errors, count.

They are applied once, at registration. An error of the contract reaches the caller as its own
status; any other exception as INTERNAL with a correlation id that the log repeats.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any, Final, Protocol

import structlog
from google.protobuf.message import Message
from google.rpc.code_pb2 import Code

from keyauthority.clock import ClockJumped
from keyauthority.errors import (
    Aborted,
    AlreadyExists,
    ErrorReason,
    FailedPrecondition,
    FieldViolation,
    InvalidArgument,
    KeyAuthorityError,
    NotFound,
    PermissionDenied,
    error,
)
from keyauthority_server.overload.refused_work import RefusedWork
from keyauthority_server.rpc.credentials import credential_of
from keyauthority_server.rpc.field_rules import prepare_referrer
from keyauthority_server.rpc.policy import INLINE_MAX, CredentialSource, RpcPolicy
from keyauthority_server.rpc.request_reader import (
    SCAN_ABOVE,
    RequestReader,
    malformed,
)
from keyauthority_server.rpc_types import Call, Handler, RpcError, internal_error, rpc_error_from
from keyauthority_server.services import Authority, Principal
from keyauthority_server.services.time_slices import TimeSlices
from keyauthority_server.store.interface import (
    StoreDamaged,
    StoreError,
    StoreFull,
    StoreReadOnly,
    StoreStale,
)

Serve = Callable[[Call, bytes], Awaitable[Any]]
"""A method that takes an unparsed request and returns the response message."""
Check = Callable[[Any], list[FieldViolation]]
Denied = Callable[[Call, Message | None, KeyAuthorityError], None]
"""Records a denied call; its request is None if it was not parsed."""

VIOLATIONS_MAX: Final = 10  # in one error, each named twice: clients accept 8 KiB of trailers
DISK_RETRY_AFTER: Final = timedelta(minutes=1)  # an operator must free space first
# Raised only after authentication. InvalidArgument is excluded: a malformed request attempts no
# change, and its text may be of any form.
_DENIALS: Final = (PermissionDenied, NotFound, AlreadyExists, Aborted, FailedPrecondition)
_UNCHARGED: Final = nullcontext()
_log = structlog.get_logger(__name__)


class CallMetrics(Protocol):
    """Counts the calls of one method."""

    def finished(self, code: str, seconds: float) -> None:
        """Count one call that ended with a status code."""
        ...


def serialize(serve: Serve) -> Handler:
    """Return the method with its response serialized, unless it returns bytes."""

    async def serialized(body: bytes, call: Call) -> bytes:
        response: Message | bytes = await serve(call, body)
        return response if isinstance(response, bytes) else response.SerializeToString()

    return serialized


def map_errors(serve: Handler, metrics: CallMetrics | None) -> Handler:
    """Return the method with every exception mapped to an RpcError.

    No variable holds the RpcError: its traceback refers to this frame, and the cycle would keep
    the request alive until the next garbage collection.
    """

    async def mapped(body: bytes, call: Call) -> bytes:
        started = time.perf_counter()
        try:
            response = await serve(body, call)
        except asyncio.CancelledError:  # the client disconnected, or the deadline passed
            if metrics is not None:
                metrics.finished("CANCELLED", time.perf_counter() - started)
            raise
        except Exception as failure:  # noqa: BLE001 - the last mapper: nothing may pass it
            raise count_error(rpc_error_of(failure), metrics, started) from None
        if metrics is not None:
            metrics.finished("OK", time.perf_counter() - started)
        return response

    return mapped


def count_error(failure: RpcError, metrics: CallMetrics | None, started: float) -> RpcError:
    """Count the failed call, and return its error."""
    if metrics is not None:
        metrics.finished(Code.Name(failure.code), time.perf_counter() - started)
    return failure


def authorize(
    authority: Authority,
    policy: RpcPolicy,
    reader: RequestReader,
    check: Check,
    method: Callable[..., Any],
    denied: Denied | None = None,
    refused: RefusedWork | None = None,
) -> Serve:
    """Return `method` with authorization and validation, in the contract's order of errors.

    The method takes the Principal for OPERATOR, the credential for OPERATOR_INLINE, the Call
    otherwise. Only a small Verify is parsed before its caller is authenticated. A request above
    INLINE_MAX of a caller without the right is never parsed, not even for `denied`. Invalid large
    requests are charged to `refused`, which methods share.
    """
    refused = refused or RefusedWork()
    if policy.credentials is CredentialSource.OPERATOR:
        return _by_operator(authority, policy, reader, check, method, denied, refused)
    if policy.credentials is CredentialSource.OPERATOR_INLINE:
        return _by_operator_inline(authority, policy, reader, check, method, refused)

    async def by_secret(call: Call, body: bytes) -> Any:
        request = reader.read_with_secret(body)
        try:
            return await method(call, request)
        except _DENIALS as denial:
            if denied is not None:
                denied(call, request, denial)
            raise

    return by_secret


def _by_operator(
    authority: Authority,
    policy: RpcPolicy,
    reader: RequestReader,
    check: Check,
    method: Callable[..., Any],
    denied: Denied | None,
    refused: RefusedWork,
) -> Serve:
    slices = authority.verification.slices

    async def authorized(call: Call, body: bytes) -> Any:
        request = None
        try:
            caller = await authority.authenticate(
                credential_of(call), policy.rights, mutates=policy.mutates
            )
            is_large = len(body) > INLINE_MAX
            with refused.charged(caller.actor, body) if is_large else _UNCHARGED:
                request = await reader.read_in_slices(body, slices)
                _require_right(caller, policy, request)
                await _require_valid_in_turn(check, request, len(body), slices)
                return await method(caller, request)
        except _DENIALS as denial:
            if denied is not None:
                if request is None and len(body) <= INLINE_MAX:
                    request = reader.read_or_none(body)
                denied(call, request, denial)
            raise

    return authorized


def _by_operator_inline(
    authority: Authority,
    policy: RpcPolicy,
    reader: RequestReader,
    check: Check,
    method: Callable[..., Any],
    refused: RefusedWork,
) -> Serve:
    slices = authority.verification.slices

    async def authorized(call: Call, body: bytes) -> Any:
        credential, request = credential_of(call), None
        authority.reject_forged(credential)
        charged: AbstractContextManager[None] = _UNCHARGED
        if len(body) > policy.inline_max:
            caller = await authority.authenticate(credential, policy.rights)
            charged = refused.charged(caller.actor, body)
        try:
            with charged:
                request = await reader.read_in_slices(body, slices)
                require_valid(check, request)
                return await method(credential, request)
        except InvalidArgument:  # in the order of errors, missing rights come first
            caller = await authority.authenticate(credential, policy.rights)
            _require_right(caller, policy, request)
            raise

    return authorized


def _require_right(caller: Principal, policy: RpcPolicy, request: Message | None) -> None:
    right = policy.needs(request) if policy.needs and request is not None else ""
    if right:
        caller.require(right)


def require_valid(check: Check, request: Message | None) -> None:
    """Raise InvalidArgument, naming the fields, unless the request is valid."""
    if request is None:
        raise malformed()
    require_no_violations(check(request))


async def _require_valid_in_turn(
    check: Check, request: Message, size: int, slices: TimeSlices
) -> None:
    """Do as `require_valid`; of large requests, check one at a time, in slices.

    A hundred referrer patterns that need IDNA conversion take 0.2 s.
    """
    if size <= SCAN_ABOVE:
        require_valid(check, request)
        return
    with slices.begin(queued=True) as turn:
        await turn.pause()
        restrictions = getattr(request, "restrictions", None)
        for text in () if restrictions is None else restrictions.allowed_referrers:
            prepare_referrer(text)
            await turn.pause()
        require_valid(check, request)


def require_no_violations(found: Iterable[FieldViolation]) -> None:
    """Raise InvalidArgument, naming the fields, if there are violations."""
    violations = list(dict.fromkeys(found))
    if violations:
        named = violations[:VIOLATIONS_MAX]
        texts = [f"{violation.field}: {violation.description}" for violation in named]
        if len(violations) > len(named):
            texts.append(f"and {len(violations) - len(named)} more")
        raise error(ErrorReason.INVALID_FIELD, "; ".join(texts), fields=named)


def rpc_error_of(failure: Exception) -> RpcError:
    """Return the status of an exception, with only the details that a caller may see."""
    known = _contract_error(failure)
    return internal_error(failure) if known is None else rpc_error_from(known)


def _contract_error(failure: Exception) -> KeyAuthorityError | None:
    if isinstance(failure, KeyAuthorityError):
        return failure
    if isinstance(failure, ClockJumped):
        return error(
            ErrorReason.CLOCK_JUMPED,
            "the clock has jumped; an operator must check it and restart the server",
        )
    if not isinstance(failure, StoreError):
        return None
    if isinstance(failure, StoreStale):  # not logged: every call fails while it lasts
        return error(
            ErrorReason.STALE, "the server cannot prove how fresh its state is; retry later"
        )
    damaged = isinstance(failure, StoreDamaged)
    (_log.error if damaged else _log.warning)("store_failed", failure=str(failure), damaged=damaged)
    if isinstance(failure, StoreFull):
        return error(
            ErrorReason.DISK_LOW,
            "the disk of the server is full; free space, then retry",
            retry_after=DISK_RETRY_AFTER,
        )
    if isinstance(failure, StoreReadOnly):
        return error(
            ErrorReason.STORE_CLOSED,
            "the store is closed for writing, it was copied to another; write to the copy",
        )
    return error(ErrorReason.STORE_UNAVAILABLE, "the store is unavailable; retry later")
