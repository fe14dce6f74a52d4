"""Verify from cached records: the path of most calls, in one step without a coroutine.

Every other case (a denial, an unknown token, a rare field, an error) is left to the general
handler, which starts again from the bytes. Both give the same responses;
`tests/service/verify/test_cached_limits.py` compares them. The limits of all calls of
a turn are spent from at its end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, NamedTuple

from keyauthority import convert
from keyauthority.decision import describe
from keyauthority.model import Standing, Verdict, VerdictCode
from keyauthority.requests import VerifyQuery
from keyauthority.v1 import key_authority_service_pb2 as pb
from keyauthority_server.metering.limits import left_of
from keyauthority_server.records import CachedKey
from keyauthority_server.rpc.certain_facts import certain_facts
from keyauthority_server.rpc.credentials import credential_of
from keyauthority_server.rpc.handlers import CallMetrics, count_error, rpc_error_of
from keyauthority_server.rpc.request_reader import RequestReader
from keyauthority_server.rpc_types import DEFERRED, Call, Deferred, Settle, Ticket
from keyauthority_server.services import Authority, Credential
from keyauthority_server.services.cached_verification import PendingSpend, SpentVerdict
from keyauthority_server.store.counters import SpendResult

BODY_MAX: Final = 1_024  # bytes; the general handler scans larger requests before parsing

_parse: Final = pb.VerifyRequest.FromString
_VALID: Final = VerdictCode.VALID.name
_REVISION: Final = pb.VerifyResponse.REVISION_FIELD_NUMBER << 3
_RESPONSES: Final = pb.BatchVerifyResponse.RESPONSES_FIELD_NUMBER << 3 | 2
_VARINT_MORE: Final = 0x80
_VALID_PREFIX: Final = pb.VerifyResponse(valid=True, verdict=pb.VERDICT_VALID).SerializeToString()
_DENIED: Final = {
    code: pb.VerifyResponse(verdict=convert.VERDICT_TO_PROTO[code]).SerializeToString()
    for code in (VerdictCode.RATE_LIMITED, VerdictCode.QUOTA_EXCEEDED)
}
"""The beginnings of responses."""


class _Deferred(NamedTuple):
    """A call whose limits are spent from at the end of the turn."""

    ticket: Ticket
    pending: PendingSpend
    started: float


class CachedVerify:
    """Answers Verify from cached records; see `rpc_types.Shortcut`."""

    def __init__(
        self,
        authority: Authority,
        metrics: CallMetrics | None,
        count: Callable[[str], None] | None,
    ) -> None:
        """`count` takes the name of each verdict."""
        self._turn = authority.verification.cached()
        self._log_id = pb.VerifyResponse(log_id=authority.log_id).SerializeToString()
        self._metrics = metrics
        self._count = count
        self._deferred: list[_Deferred] = []
        self._read: Callable[[bytes], Any] = RequestReader(pb.VerifyRequest).read  # of JSON
        self.begin_turn = self._turn.begin

    def __call__(
        self, body: bytes, call: Call, ticket: Ticket | None = None
    ) -> bytes | Deferred | None:
        """Return the response of a VALID verdict; see `Shortcut`."""
        if len(body) > BODY_MAX:
            return None
        started = time.perf_counter()
        try:
            credential = credential_of(call)
            if not isinstance(credential, Credential):
                return None
            request = _parse(body) if type(body) is bytes else self._read(body)
            facts = certain_facts(request)
            if facts is None:
                return None
            cost = request.cost if request.HasField("cost") else 1
            cached = self._turn.verify(credential, request.secret_key, facts, cost)
            if cached is None:
                return None
            if isinstance(cached, PendingSpend):
                if ticket is None:
                    return None
                self._deferred.append(_Deferred(ticket, cached, started))
                return DEFERRED
            constant = _answer_of(cached)
        except Exception:  # noqa: BLE001 - the general handler meets it again and reports it
            return None
        if self._count is not None:
            self._count(_VALID)
        answer = constant + _varint_field(_REVISION, self._turn.revision) + self._log_id
        if self._metrics is not None:
            self._metrics.finished("OK", time.perf_counter() - started)
        return answer

    def end_turn(self, settle: Settle) -> Coroutine[Any, Any, None] | None:
        """Spend from the limits of the deferred calls, and settle the calls; see `Shortcut`."""
        if not self._deferred:
            return None
        deferred, self._deferred = self._deferred, []
        try:
            verdicts = self._turn.spend_now([call.pending for call in deferred])
        except Exception as failure:  # noqa: BLE001 - the calls must be answered
            self._fail(deferred, failure, settle)
            return None
        if verdicts is None:
            return self._spend(deferred, settle)
        self._settle(deferred, verdicts, settle)
        return None

    async def _spend(self, deferred: Sequence[_Deferred], settle: Settle) -> None:
        """Spend from limits where that would wait, and settle the calls."""
        try:
            verdicts = await self._turn.spend([call.pending for call in deferred])
        except Exception as failure:  # noqa: BLE001 - the calls must be answered
            self._fail(deferred, failure, settle)
        else:
            self._settle(deferred, verdicts, settle)

    def _settle(
        self, deferred: Sequence[_Deferred], verdicts: Sequence[SpentVerdict], settle: Settle
    ) -> None:
        for (ticket, pending, started), (code, result) in zip(deferred, verdicts, strict=True):
            if self._count is not None:
                self._count(code.name)
            answer = _answer_of(pending.cached)
            if code is not VerdictCode.VALID:
                answer = _DENIED[code] + answer[len(_VALID_PREFIX) :]
            varying = _varying(pending, result)
            if self._metrics is not None:
                self._metrics.finished("OK", time.perf_counter() - started)
            settle(ticket, answer + varying + self._log_id)

    def _fail(self, deferred: Sequence[_Deferred], failure: Exception, settle: Settle) -> None:
        refusal = rpc_error_of(failure)
        for ticket, _, started in deferred:
            settle(ticket, count_error(refusal, self._metrics, started))


class CachedBatchVerify:
    """Answers BatchVerify from cached records if all verdicts are VALID."""

    def __init__(self, authority: Authority) -> None:
        self._verification = authority.verification
        self._turn = authority.verification.cached()
        self._log_id = pb.VerifyResponse(log_id=authority.log_id).SerializeToString()

    async def answer(self, credential: Credential, queries: Sequence[VerifyQuery]) -> bytes | None:
        """Return the response; None, with nothing counted, for the general handler."""
        with self._verification.slices.begin() as slices:
            verified = await self._turn.verify_all(credential, queries, slices)
        if verified is None:
            return None
        valid, revision = verified
        varying = _varint_field(_REVISION, revision) + self._log_id
        parts = list[bytes]()
        for cached in valid:
            constant = _item_of(cached)
            parts += (_item_header(len(constant) + len(varying)), constant, varying)
        return b"".join(parts)


def _answer_of(cached: CachedKey) -> bytes:
    """Return the constant part of a VALID response: without standings, revision and log_id."""
    if cached.answer is None:
        verdict = describe(cached.stored.key, VerdictCode.VALID)
        cached.answer = convert.verdict_to_proto(verdict).SerializeToString()
    return cached.answer


def _varying(pending: PendingSpend, result: SpendResult) -> bytes:
    """Return the part of a response that each spend changes: standings and revision."""
    limits = pending.limits.limits
    counted = [(limit, *left_of(limit, state)) for limit, state in zip(limits, result, strict=True)]
    response = _response_of(tuple((x.standing, x.counter.limit, end) for x, _, end in counted))
    for limit, left, _ in counted:
        getattr(response, limit.standing).remaining = left
    response.revision = pending.revision
    return response.SerializeToString()


@lru_cache(maxsize=1_024)  # many keys have the same limits, in the same windows
def _response_of(limits: tuple[tuple[str, int, datetime | None], ...]) -> pb.VerifyResponse:
    """Return a response with standings, to be completed: their fields, numbers and ends."""
    standings: dict[str, Any] = {name: Standing(number, 0, end) for name, number, end in limits}
    return convert.standings_to_proto(Verdict(VerdictCode.VALID, **standings))


def _item_of(cached: CachedKey) -> bytes:
    """Return the constant part of a VALID response of a batch: without revision and log_id."""
    if cached.item is None:
        verdict = describe(cached.stored.key, VerdictCode.VALID)
        (response,) = convert.verdicts_to_proto((verdict,)).responses
        cached.item = response.SerializeToString()
    return cached.item


@lru_cache(maxsize=1_024)  # sizes of responses vary little
def _item_header(size: int) -> bytes:
    """Return the tag and length of a response of this size in a BatchVerifyResponse."""
    return _varint_field(_RESPONSES, size)


def _varint_field(tag: int, value: int) -> bytes:
    """Return a tag and a number: a field of wire type 0, or the beginning of one of type 2."""
    encoded = bytearray()
    for number in (tag, value):
        while number >= _VARINT_MORE:
            encoded.append(number & 0x7F | _VARINT_MORE)
            number >>= 7
        encoded.append(number)
    return bytes(encoded)
