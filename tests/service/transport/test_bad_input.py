"""Fields at and beyond their limits, and malformed messages: rejected by name, no side effect."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any, Final

import grpc
import grpc.aio
import pytest
from google.protobuf.message import Message

from keyauthority.v1 import key_authority_service_pb2, key_pb2, project_service_pb2
from keyauthority_server.rpc_types import RpcError
from keyauthority_server.transport import gate
from tests.service.bounds import AT_THE_LIMIT, BEYOND, PROJECT
from tests.service.callers import (
    METHODS,
    Caller,
    key_request,
    new_key,
    new_project,
    verdict,
)
from tests.service.processes import ServerProcess

_keys, _projects = key_authority_service_pb2, project_service_pb2

LEAKS: Final = ("traceback", "exception", "sqlite", "decode", ".py", " /", "<class")
BODIES: Final = 40  # random bodies for each method and transport
SEED: Final = 20_240_229

RANDOM_CODES: Final = {
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "UNAUTHENTICATED",
    "FAILED_PRECONDITION",
    "UNIMPLEMENTED",
}
"""Codes for a call of random bytes by the first operator. INTERNAL is not among them."""


def sent(request: Message, project: str) -> Message:
    """The request, about the test's own project."""
    copy = type(request)()
    copy.CopyFrom(request)
    if getattr(copy, "project_id", "") == PROJECT:
        copy.project_id = project  # type: ignore[attr-defined]
    return copy


def tells_nothing(details: str) -> bool:
    """True if an error's text shows nothing of the server's inside."""
    return not any(leak in details.lower() for leak in LEAKS)


@pytest.mark.parametrize("name", AT_THE_LIMIT)
def test_field_at_its_limit_is_accepted(root: Caller, project: str, name: str) -> None:
    """The documented bounds are inclusive."""
    root.ask(sent(AT_THE_LIMIT[name], project))


def test_field_beyond_its_limit_is_named(root: Caller, project: str) -> None:
    """INVALID_ARGUMENT carries a BadRequest with exactly this field."""
    wrong = {}
    for place, (field, request) in enumerate(BEYOND):
        refused = root.refused(sent(request, project))
        got = (refused.code.name, refused.reason, refused.fields, tells_nothing(refused.details))
        if got != ("INVALID_ARGUMENT", "INVALID_FIELD", {field}, True):
            wrong[place, field] = refused
    assert {} == wrong
    assert not root.ask(_keys.ListKeysRequest(project_id=project)).keys


def test_many_invalid_fields_fit_the_client_trailer_limit(root: Caller, project: str) -> None:
    """The first fields are named and the rest counted: clients reject trailers over 8 KiB."""
    bad = ["?"] * 100
    everywhere = key_pb2.Restrictions(
        allowed_ips=bad, allowed_referrers=bad, ios_bundle_ids=[""] * 100
    )
    batch = [_keys.VerifyRequest(permissions=bad)] * 1000
    for request in (
        key_request(project, "RESTRICTED", permissions=bad, restrictions=everywhere),
        _keys.BatchVerifyRequest(requests=batch),
    ):
        refused = root.refused(request)
        assert ("INVALID_ARGUMENT", "INVALID_FIELD") == (refused.code.name, refused.reason)
        assert refused.fields
        assert refused.details.endswith(" more")


def random_bodies(seed: str) -> Iterator[bytes]:
    """Bytes without sense, the same at each run."""
    source = random.Random(f"{SEED} {seed}")
    for _ in range(BODIES):
        yield source.randbytes(source.randrange(200))


def damaged(request: Message, seed: str) -> Iterator[bytes]:
    """A message with single bytes changed, cut short, and with something behind it."""
    source = random.Random(f"{SEED} {seed}")
    body = request.SerializeToString()
    for _ in range(BODIES):
        place = source.randrange(len(body))
        yield body[:place] + source.randbytes(1) + body[place + 1 :]
    yield from (body[:-1], body + b"\xff", body + b"\x08", body + body)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_random_bytes_are_rejected_or_answered(
    server: ServerProcess, root: Caller, nobody: Caller, method: str
) -> None:
    """No decoder crashes, no process ends, and no error detail shows internals."""
    workers = server.worker_pids()
    for caller in (root, nobody):
        for body in random_bodies(method):
            refused = caller.outcome(method, body)
            if refused is not None:
                assert refused.code.name in RANDOM_CODES, (body, refused)
                assert tells_nothing(refused.details), (body, refused)
    assert workers == server.worker_pids()
    assert "Traceback" not in server.log_text()


def test_damaged_messages_are_rejected_or_answered(
    server: ServerProcess, root: Caller, project: str
) -> None:
    """A nearly valid message is read as its bytes say, or rejected."""
    token = new_key(root, project).secret_key
    request = _keys.VerifyRequest(
        secret_key=token, permissions=["a:b"], client_ip="::1", app=_keys.App(ios_bundle_id="a")
    )
    for body in damaged(request, "Verify"):
        refused = root.outcome("Verify", body)
        assert refused is None or "INVALID_ARGUMENT" == refused.code.name, (body, refused)
    assert "VALID" == verdict(root, token)
    assert "Traceback" not in server.log_text()


@pytest.mark.parametrize(
    "body", [b"\xff\xff\xff", b"\x0a", b"\x0a\xff", b"\x0a\x02\xc3\x28", b"\x07"]
)
def test_malformed_message_is_invalid_message(root: Caller, body: bytes) -> None:
    """The reason is INVALID_MESSAGE, also for text that is not UTF-8."""
    for method in ("Verify", "CreateKey", "CreateProject"):
        refused = root.outcome(method, body)
        assert refused is not None
        assert ("INVALID_ARGUMENT", "INVALID_MESSAGE") == (refused.code.name, refused.reason)


def test_unknown_fields_are_ignored(root: Caller, project: str) -> None:
    """A field of a newer version is no error, as in protobuf generally."""
    body = _keys.VerifyRequest(secret_key=new_key(root, project).secret_key).SerializeToString()
    answer = root.send("Verify", body + b"\xfa\x7f\x01x")
    assert _keys.VerifyResponse.FromString(answer).valid


def test_two_messages_on_a_unary_call_execute_at_most_once(root: Caller) -> None:
    """The handler runs once, whether the call is answered or rejected."""
    name = f"twice {new_project(root)}"
    request = _projects.CreateProjectRequest(display_name=name).SerializeToString()
    call: Any = root.channel.stream_unary("/keyauthority.v1.ProjectService/CreateProject")
    with contextlib.suppress(grpc.RpcError):
        call(iter([request, request, request]), metadata=root.metadata, timeout=10)
    count, page_token = 0, ""
    for _ in range(100):
        page = root.ask(_projects.ListProjectsRequest(page_size=1000, page_token=page_token))
        count += sum(project.display_name == name for project in page.projects)
        page_token = page.next_page_token
        if not page_token:
            break
    assert count <= 1


async def test_refusal_of_a_client_that_has_gone_is_no_error() -> None:
    """It cannot be sent through grpcio; otherwise each such call would log a traceback."""

    class Gone:
        async def abort(self, *_: object) -> None:
            raise grpc.aio.InternalError("execute_batch")

    await gate.abort(Gone(), RpcError(3, "malformed request message"))  # type: ignore[arg-type]
