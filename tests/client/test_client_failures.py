"""Credentials, deadlines, retries and errors of both clients."""

from __future__ import annotations

import socket
import threading
import uuid
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from keyauthority import AsyncClient, Client, convert
from keyauthority.errors import (
    DeadlineExceeded,
    ErrorReason,
    FieldViolation,
    Internal,
    InvalidArgument,
    NotFound,
    Unavailable,
    error,
)
from keyauthority.results import Page
from keyauthority.token import SecretKey
from keyauthority.v1 import key_authority_service_pb2 as service_pb2
from keyauthority.v1.usage_service_pb2 import ReportUsageResponse
from tests.client import records
from tests.client.conftest import Call
from tests.client.fake_authority import FakeAuthority
from tests.client.records import (
    CREATED_KEY,
    CREATED_PROJECT,
    KEY,
    OPERATOR_KEY,
    PROJECT_ID,
    REVOKED,
    ROTATED,
    TOKEN,
    USAGE_ROW,
)

_PROJECT_ID_ANSWER = service_pb2.GetProjectIdResponse(project_id=PROJECT_ID)
_DOWN = error(ErrorReason.STORE_UNAVAILABLE, "the store is down")


@pytest.mark.parametrize("operator_key", [OPERATOR_KEY, SecretKey(OPERATOR_KEY)])
def test_operator_key_is_sent_as_bearer_token(
    call: Call, authority: FakeAuthority, operator_key: str
) -> None:
    """A SecretKey is redacted in text and sent in full."""
    authority.will(records.VALID_ANSWER)

    call("verify", TOKEN, client={"operator_key": operator_key})

    assert authority.seen[0].metadata["authorization"] == f"Bearer {OPERATOR_KEY}"


def test_white_space_around_an_operator_key_is_trimmed(
    call: Call, authority: FakeAuthority
) -> None:
    """Files end in a newline, and variables are filled from files."""
    authority.will(records.VALID_ANSWER)

    call("verify", TOKEN, client={"operator_key": f" \t{OPERATOR_KEY}\r\n"})

    assert authority.seen[0].metadata["authorization"] == f"Bearer {OPERATOR_KEY}"


def test_token_to_verify_is_sent_unchanged(call: Call, authority: FakeAuthority) -> None:
    """Only credentials are trimmed: the server judges the exact token."""
    authority.will(records.UNKNOWN_ANSWER)

    call("verify", f" {TOKEN}\n")

    assert authority.seen[0].request.secret_key == f" {TOKEN}\n"


def test_get_project_id_sends_no_operator_key(call: Call, authority: FakeAuthority) -> None:
    """The secret is sufficient, so no other credential is sent."""
    authority.will(_PROJECT_ID_ANSWER)

    call("get_project_id", None, TOKEN, client={"operator_key": OPERATOR_KEY})

    assert "authorization" not in authority.seen[0].metadata


@pytest.mark.parametrize("operator_key", ["", " ", "op_\nlive", "op_live_é", "op\x7f"])
@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_unsendable_operator_key_is_refused_without_showing_it(
    client: type[Client] | type[AsyncClient], operator_key: str
) -> None:
    """The error of gRPC itself would print the metadata."""
    with pytest.raises(InvalidArgument) as refused:
        client("127.0.0.1:1", operator_key=operator_key)

    assert str(refused.value) == "operator_key: is not an operator key"


def test_client_repr_hides_the_operator_key() -> None:
    """The repr holds the address only."""
    with Client("127.0.0.1:1", operator_key=OPERATOR_KEY) as client:
        assert repr(client) == "Client('127.0.0.1:1')"


def test_error_arrives_with_all_its_details(call: Call, authority: FakeAuthority) -> None:
    """Type, message, reason, metadata and fields equal the server's."""
    sent = error(
        ErrorReason.INVALID_FIELD,
        "purpose: is too long",
        metadata={"limit": "200"},
        fields=[FieldViolation("purpose", "is too long")],
    )
    authority.will(sent)

    with pytest.raises(InvalidArgument) as raised:
        call("get_key", KEY.access_key)

    assert vars(raised.value) == vars(sent)


def test_status_without_details_is_mapped_by_code(call: Call, authority: FakeAuthority) -> None:
    """A proxy sends no details; code and message are enough."""

    def refuse(context: grpc.ServicerContext) -> Message:
        context.abort(grpc.StatusCode.NOT_FOUND, "nothing here")
        raise AssertionError("abort returns")

    authority.will(refuse)

    with pytest.raises(NotFound) as raised:
        call("get_key", KEY.access_key)

    assert (raised.value.message, raised.value.reason) == ("nothing here", None)


def test_malformed_details_do_not_hide_the_error(call: Call, authority: FakeAuthority) -> None:
    """Bytes that are not a Status are ignored."""

    def refuse(context: grpc.ServicerContext) -> Message:
        context.set_trailing_metadata((("grpc-status-details-bin", b"\xff\xff"),))
        context.abort(grpc.StatusCode.NOT_FOUND, "nothing here")
        raise AssertionError("abort returns")

    authority.will(refuse)

    with pytest.raises(NotFound, match="nothing here"):
        call("get_key", KEY.access_key)


def test_grpc_exception_is_not_in_the_traceback(call: Call, authority: FakeAuthority) -> None:
    """A caller sees one exception, without gRPC's."""
    authority.will(error(ErrorReason.KEY_NOT_FOUND, "no such key"))

    with pytest.raises(NotFound) as raised:
        call("get_key", KEY.access_key)

    assert (raised.value.__cause__, raised.value.__suppress_context__) == (None, True)


def test_refused_connection_is_unavailable(call: Call) -> None:
    """It fails fast and is no verdict."""
    with socket.socket() as bound:  # bound, not listening: nothing else takes the port
        bound.bind(("127.0.0.1", 0))

        with pytest.raises(Unavailable):
            call("verify", TOKEN, client={"address": f"127.0.0.1:{bound.getsockname()[1]}"})


@pytest.mark.parametrize("client", [{"timeout": 0.2}, {}])
def test_call_without_an_answer_is_deadline_exceeded(
    call: Call, authority: FakeAuthority, client: dict[str, Any]
) -> None:
    """The client's timeout applies unless the call has its own."""
    answered = threading.Event()

    def wait(context: grpc.ServicerContext) -> Message:
        answered.wait(10)
        return records.VALID_ANSWER

    authority.will(wait)
    timeout = {} if client else {"timeout": 0.2}
    try:
        with pytest.raises(DeadlineExceeded):
            call("verify", TOKEN, client=client, **timeout)
    finally:
        answered.set()


def test_timeout_below_a_second_is_sent(call: Call, authority: FakeAuthority) -> None:
    """The server gets the deadline; a short one does not fail by itself."""
    authority.will(records.VALID_ANSWER)

    call("verify", TOKEN, timeout=0.9)

    assert 0 < authority.seen[0].seconds_left < 1  # gRPC rounds it up by some milliseconds


def test_default_timeout_is_five_seconds(call: Call, authority: FakeAuthority) -> None:
    """No call waits forever."""
    authority.will(records.VALID_ANSWER)

    call("verify", TOKEN)

    assert 4 < authority.seen[0].seconds_left < 6  # gRPC rounds it up by some milliseconds


def test_unavailable_read_is_retried(call: Call, authority: FakeAuthority) -> None:
    """A restarting server is not noticed by readers."""
    authority.will(_DOWN, _DOWN, records.VALID_ANSWER)

    assert call("verify", TOKEN) == records.VALID
    assert len(authority.seen) == 3


def test_read_fails_after_four_attempts(call: Call, authority: FakeAuthority) -> None:
    """Retries are bounded."""
    authority.will(_DOWN)

    with pytest.raises(Unavailable) as raised:
        call("get_key", KEY.access_key)

    assert raised.value.reason is ErrorReason.STORE_UNAVAILABLE
    assert len(authority.seen) == 4


@pytest.mark.parametrize(
    ("method", "args", "kwargs", "answer"),
    [
        ("create_project", ("Shop",), {}, convert.created_project_to_proto(CREATED_PROJECT)),
        (
            "create_key",
            (PROJECT_ID,),
            {"kind": "secret", "mode": "test", "request_id": ""},
            convert.created_key_to_proto(CREATED_KEY),
        ),
        ("rotate_key", (KEY.access_key,), {}, convert.rotated_key_to_proto(ROTATED)),
        ("revoke_key", (KEY.access_key,), {}, convert.revoked_key_to_proto(REVOKED)),
        ("report_usage", ([USAGE_ROW],), {}, ReportUsageResponse()),
    ],
)
def test_idempotent_write_is_retried_with_one_id(
    call: Call,
    authority: FakeAuthority,
    method: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    answer: Message,
) -> None:
    """All attempts share a request_id and create one key, not three."""
    authority.will(_DOWN, _DOWN, answer)

    call(method, *args, **kwargs)

    attempts = [seen.request for seen in authority.seen]
    assert attempts == [attempts[0]] * 3


@pytest.mark.parametrize(
    ("method", "args", "kwargs"),
    [
        ("update_key", (KEY.access_key,), {"disabled": True}),
        ("update_project", (PROJECT_ID,), {"suspended": True, "etag": "r3"}),
    ],
)
def test_unavailable_update_is_not_retried(
    call: Call,
    authority: FakeAuthority,
    method: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> None:
    """A second attempt could undo another caller's change."""
    authority.will(_DOWN)

    with pytest.raises(Unavailable):
        call(method, *args, **kwargs)

    assert len(authority.seen) == 1


@pytest.mark.parametrize(
    ("method", "args", "kwargs", "answer", "field"),
    [
        (
            "create_project",
            ("Shop",),
            {},
            convert.created_project_to_proto(CREATED_PROJECT),
            "request_id",
        ),
        (
            "create_key",
            (PROJECT_ID,),
            {"kind": "secret", "mode": "test"},
            convert.created_key_to_proto(CREATED_KEY),
            "request_id",
        ),
        ("rotate_key", (KEY.access_key,), {}, convert.rotated_key_to_proto(ROTATED), "request_id"),
        ("report_usage", ([USAGE_ROW],), {}, ReportUsageResponse(), "batch_id"),
    ],
)
def test_each_call_has_a_fresh_id_unless_given(
    call: Call,
    authority: FakeAuthority,
    method: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    answer: Message,
    field: str,
) -> None:
    """Equal calls create two keys: an id is a new UUID version 4."""
    authority.will(answer)

    ids: list[dict[str, Any]] = [{}, {}, {field: "mine"}]
    for given in ids:
        call(method, *args, **{**kwargs, **given})

    first, second, third = (getattr(seen.request, field) for seen in authority.seen)
    assert [str(uuid.UUID(one, version=4)) for one in (first, second)] == [first, second]
    assert (first != second, third) == (True, "mine")


def test_unreadable_answer_is_internal(call: Call, authority: FakeAuthority) -> None:
    """An unknown verdict is neither valid nor denied."""
    authority.will(service_pb2.VerifyResponse(verdict=service_pb2.VERDICT_UNSPECIFIED))

    with pytest.raises(Internal, match="cannot parse the response"):
        call("verify", TOKEN)


def test_list_gives_single_pages(authority: FakeAuthority) -> None:
    """A caller can take them one by one."""
    page = Page((KEY,), "third")
    authority.will(convert.key_page_to_proto(page))

    with Client(authority.address) as client:
        assert client.list_keys().page("second") == page

    assert authority.seen[0].request.page_token == "second"


async def test_async_list_gives_single_pages(authority: FakeAuthority) -> None:
    """A caller can take them one by one."""
    page = Page((KEY,), "third")
    authority.will(convert.key_page_to_proto(page))

    async with AsyncClient(authority.address) as client:
        assert await client.list_keys().page("second") == page

    assert authority.seen[0].request.page_token == "second"
