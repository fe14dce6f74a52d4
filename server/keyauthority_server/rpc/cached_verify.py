"""Verify from cached records: the path of most calls, in one step without a coroutine.

Every other case (a denial, a limit, an unknown token, a rare field, an error) is left to the
general handler, which starts again from the bytes. Both give the same responses;
`tests/service/verify/test_agreement.py` compares them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from keyauthority import convert
from keyauthority.decision import build_verdict
from keyauthority.model import Facts, Key, VerdictCode
from keyauthority.permissions import is_concrete
from keyauthority.requests import VerifyQuery
from keyauthority.restrictions import parse_address
from keyauthority.v1 import key_authority_service_pb2 as pb
from keyauthority_server.rpc.credentials import credential_of
from keyauthority_server.rpc.field_rules import LIST_MAX
from keyauthority_server.rpc.handlers import CallMetrics
from keyauthority_server.rpc.validate import verify as violations
from keyauthority_server.rpc_types import Call
from keyauthority_server.services import Authority, Credential

BODY_MAX: Final = 1_024  # bytes; the general handler scans larger requests before parsing

_UNSET: Final = datetime.min.replace(tzinfo=UTC)
_NO_FACTS: Final = Facts()
_VALID: Final = VerdictCode.VALID.name
_REVISION: Final = pb.VerifyResponse.REVISION_FIELD_NUMBER << 3
_VARINT_MORE: Final = 0x80


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
        self.begin_turn = self._turn.begin

    def __call__(self, body: bytes, call: Call) -> bytes | None:
        """Return the response if the verdict is VALID; None to use the general handler."""
        if len(body) > BODY_MAX:
            return None
        started = time.perf_counter()
        try:
            request = pb.VerifyRequest.FromString(body)
            facts = _facts(request)
            if facts is None:
                return None
            credential = credential_of(call)
            if not isinstance(credential, Credential):
                return None
            cost = request.cost if request.HasField("cost") else 1
            cached = self._turn.verify(credential, request.secret_key, facts, cost)
            if cached is None:
                return None
            if cached.answer is None:
                cached.answer = _constant_answer(cached.stored.key)
        except Exception:  # noqa: BLE001 - the general handler meets it again and reports it
            return None
        if self._count is not None:
            self._count(_VALID)
        answer = cached.answer + _varint_field(_REVISION, self._turn.revision) + self._log_id
        if self._metrics is not None:
            self._metrics.finished("OK", time.perf_counter() - started)
        return answer


def _facts(request: pb.VerifyRequest) -> Facts | None:
    """Return the facts of a request that is certainly valid; None for the general handler."""
    if (
        request.include_record
        or request.explain
        or request.at_least_revision
        or request.log_id
        or request.mode
        or request.cost < 0
    ):
        return None
    if (
        request.access_key
        or request.project_id
        or request.referrer
        or request.HasField("app")
        or request.HasField("api_target")
    ):
        return None if violations(request) else convert.facts_from_proto(request)
    client_ip, permissions = request.client_ip, tuple(request.permissions)
    if client_ip and parse_address(client_ip) is None:
        return None
    if permissions and (len(permissions) > LIST_MAX or not all(map(is_concrete, permissions))):
        return None
    return Facts("", "", None, permissions, client_ip)


def _constant_answer(key: Key) -> bytes:
    """Return the serialized VALID response for a key, without revision and log_id."""
    verdict = build_verdict(key, None, VerifyQuery("", _NO_FACTS), _UNSET, 0, "")
    return convert.verdict_to_proto(verdict._replace(code=VerdictCode.VALID)).SerializeToString()


def _varint_field(tag: int, value: int) -> bytes:
    """Return a serialized protobuf field of wire type 0."""
    encoded = bytearray()
    for number in (tag, value):
        while number >= _VARINT_MORE:
            encoded.append(number & 0x7F | _VARINT_MORE)
            number >>= 7
        encoded.append(number)
    return bytes(encoded)
