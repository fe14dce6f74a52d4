"""Callers are authenticated before large requests are parsed."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Final

import pytest
from google.protobuf.message import Message

from keyauthority.errors import ErrorReason, KeyAuthorityError, PermissionDenied, error
from keyauthority.model import KeyKind, KeyMode
from keyauthority.token import make, new_access_key, new_secret
from keyauthority.v1 import key_authority_service_pb2 as pb
from keyauthority_server.rpc.handlers import Denied, Serve, authorize
from keyauthority_server.rpc.policy import INLINE_MAX, POLICY
from keyauthority_server.rpc.request_reader import RequestReader
from keyauthority_server.rpc.validate import CHECKS
from keyauthority_server.rpc_types import Call
from keyauthority_server.services.time_slices import TimeSlices

TOKEN: Final = make(KeyKind.OPERATOR, KeyMode.LIVE, new_access_key(), new_secret()).reveal()
CALL: Final = Call((("x-auth-token", TOKEN),), "ipv4:127.0.0.1:1")
PROJECT: Final = "7d0c2f10-3a57-4c44-9d3f-6a1f3b0f9a11"


class WithoutRight:
    """An authority that denies every caller its right."""

    verification = SimpleNamespace(slices=TimeSlices())

    def __init__(self) -> None:
        self.mutates: bool | None = None

    def reject_forged(self, credential: object) -> None:
        """Let the caller be authenticated."""

    async def authenticate(
        self, credential: object, rights: Sequence[str], *, mutates: bool = False
    ) -> None:
        """Deny the caller."""
        self.mutates = mutates
        raise error(ErrorReason.PERMISSION_MISSING, "the caller lacks the permission")


class Reads(RequestReader):
    """Notes whether it parses a request."""

    def __init__(self, request_type: type[Message]) -> None:
        super().__init__(request_type)
        self.read_any = False

    def _parsed(self, body: bytes) -> Message:
        self.read_any = True
        return super()._parsed(body)


def denying(
    method: str,
    request_type: type[Message],
    denied: Denied | None = None,
    authority: WithoutRight | None = None,
) -> tuple[Serve, Reads]:
    """A method whose callers all lack the right."""

    async def never(*_: object) -> None:
        pytest.fail("served a caller without the right")

    reader, authority = Reads(request_type), authority or WithoutRight()
    policy = POLICY[f"keyauthority.v1.KeyAuthorityService.{method}"]
    check: Any = CHECKS[request_type]
    return authorize(authority, policy, reader, check, never, denied), reader  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("method", "request_type"),
    [
        ("BatchVerify", pb.BatchVerifyRequest),
        ("ImportKeys", pb.ImportKeysRequest),
        ("CreateKey", pb.CreateKeyRequest),
        ("Verify", pb.VerifyRequest),
    ],
)
async def test_large_request_of_a_caller_without_the_right_is_not_parsed(
    method: str, request_type: type[Message]
) -> None:
    """Not for its denial either: nothing of a message that does not end is looked at."""
    denials: list[Message | None] = []

    def denied(call: Call, request: Message | None, denial: KeyAuthorityError) -> None:
        denials.append(request)

    serve, reader = denying(method, request_type, denied)
    with pytest.raises(PermissionDenied):
        await serve(CALL, b"\x0a" + b"\x7f" * INLINE_MAX)
    assert not reader.read_any
    assert [None] * len(denials) == denials


async def test_small_batch_of_a_caller_without_the_right_is_not_parsed() -> None:
    """Two bytes an item: the work of a batch is not in proportion to its size."""
    serve, reader = denying("BatchVerify", pb.BatchVerifyRequest)
    with pytest.raises(PermissionDenied):
        await serve(CALL, b"\x0a\x00" * 400)
    assert not reader.read_any


async def test_denial_of_a_small_request_names_its_project() -> None:
    """The record of denied mutations shows where the caller tried."""
    denials: list[Message | None] = []

    def denied(call: Call, request: Message | None, denial: KeyAuthorityError) -> None:
        denials.append(request)

    serve, _ = denying("CreateKey", pb.CreateKeyRequest, denied)
    request = pb.CreateKeyRequest(project_id=PROJECT)
    with pytest.raises(PermissionDenied):
        await serve(CALL, request.SerializeToString())
    assert [request] == denials


@pytest.mark.parametrize(
    ("method", "request_type", "mutates"),
    [
        ("ImportKeys", pb.ImportKeysRequest, True),
        ("UpdateKey", pb.UpdateKeyRequest, True),
        ("GetKey", pb.GetKeyRequest, False),
    ],
)
async def test_only_mutations_admit_a_caller_whose_record_may_be_stale(
    method: str, request_type: type[Message], mutates: bool
) -> None:
    """A mutation checks the caller again when it commits, so no proof of freshness delays it."""
    authority = WithoutRight()
    serve, _ = denying(method, request_type, authority=authority)
    with pytest.raises(PermissionDenied):
        await serve(CALL, b"")
    assert mutates is authority.mutates
