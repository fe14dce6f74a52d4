"""request_id: a repeated call gets the first answer and has no second effect."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import Any, Final

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from keyauthority.v1 import key_authority_service_pb2 as pb
from keyauthority.v1 import key_pb2
from keyauthority.v1.project_service_pb2 import CreateProjectRequest
from tests.conftest import Start
from tests.service.callers import (
    ABSENT_KEY,
    METHODS,
    Caller,
    absent_project,
    bearer,
    get_key,
    key_request,
    lasting,
    new_key,
    new_operator,
    new_project,
    revoke,
    verdict,
)
from tests.service.lifecycle import IN_STATE, rotate, update, update_project
from tests.service.processes import ServerProcess, wait_until

AT_ONCE: Final = 200
CONNECTIONS: Final = 8
THREADS: Final = 32
CUT: Final = 60  # answers that are thrown away
CUT_SECONDS: Final = 0.02  # the latest: by then nearly every answer is there
KILLED: Final = 64
OWN_CONNECTION: Final = (("grpc.use_local_subchannel_pool", 1),)
REUSED: Final = ("ALREADY_EXISTS", "REQUEST_ID_REUSED")

Connect = Callable[[ServerProcess], list[Caller]]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Open many connections for the first operator, so that each worker has some."""
    with ExitStack() as stack:

        def connect_to(server: ServerProcess) -> list[Caller]:
            return [
                Caller(
                    stack.enter_context(grpc.insecure_channel(server.address, OWN_CONNECTION)),
                    server.metadata,
                )
                for _ in range(CONNECTIONS)
            ]

        yield connect_to


@pytest.fixture
def two_workers(start_server: Start, transport: str) -> ServerProcess:
    """A server of the test's own, on each transport: its log of changes has no other writer."""
    return start_server("--transport", transport, "--workers", "2")


def new_id() -> str:
    """A request_id."""
    return str(uuid.uuid4())


def keys_of(caller: Caller, project_id: str) -> list[str]:
    """The access keys of a project, all of them."""
    listing = pb.ListKeysRequest(project_id=project_id, page_size=1000)
    return [key.access_key for key in caller.ask(listing).keys]


def at_once(callers: Sequence[Caller], request: Message, times: int) -> list[bytes]:
    """Send the same request many times at once; return the answers."""
    name, body = request.DESCRIPTOR.name.removesuffix("Request"), request.SerializeToString()
    with ThreadPoolExecutor(THREADS) as pool:
        turns = [callers[turn % len(callers)] for turn in range(times)]
        return list(pool.map(lambda caller: caller.send(name, body), turns))


def refused(caller: Caller, request: Message) -> tuple[str, str]:
    """The failure of a call."""
    refusal = caller.refused(request)
    return (refusal.code.name, refusal.reason)


@pytest.mark.case(15)
def test_concurrent_requests_with_one_id_execute_once(
    two_workers: ServerProcess, connect: Connect
) -> None:
    """200 CreateKey, and some RotateKey and CreateProject: one answer and one change each."""
    callers = connect(two_workers)
    root = callers[0]
    project = new_project(root)
    head = new_key(root, project).revision
    request = key_request(project, "RESTRICTED", request_id=new_id(), labels={"a": "b", "c": "d"})
    (answer,) = {
        pb.CreateKeyResponse.FromString(one).SerializeToString(deterministic=True)
        for one in at_once(callers, request, AT_ONCE)
    }
    made = pb.CreateKeyResponse.FromString(answer)
    assert (head + 1, 2) == (made.revision, len(keys_of(root, project)))
    assert "VALID" == verdict(root, made.secret_key)
    wanted = pb.RotateKeyRequest(access_key=made.key.access_key, request_id=new_id())
    (rotated,) = {
        pb.RotateKeyResponse.FromString(one).SerializeToString(deterministic=True)
        for one in at_once(callers, wanted, AT_ONCE // 4)
    }
    successor = pb.RotateKeyResponse.FromString(rotated)
    assert (head + 2, 3) == (successor.revision, len(keys_of(root, project)))
    assert "VALID" == verdict(root, successor.secret_key)
    projects = set(at_once(callers, CreateProjectRequest(request_id=new_id()), AT_ONCE // 4))
    assert 1 == len(projects)
    assert head + 4 == new_key(root, project).revision


@pytest.mark.case(15)
def test_lost_answer_is_repeated_on_retry(two_workers: ServerProcess, connect: Connect) -> None:
    """A call cut off at any time by deadline or client, then retried, creates one key."""
    callers = connect(two_workers)
    root, chance = callers[0], random.Random(15)
    project = new_project(root)
    method = METHODS["CreateKey"]
    path = f"/{method.containing_service.full_name}/{method.name}"
    requests = [key_request(project, request_id=new_id()) for _ in range(CUT)]
    lost = 0
    for turn, request in enumerate(requests):
        caller = callers[turn % len(callers)]
        call: Any = caller.channel.unary_unary(path)
        wait = chance.uniform(0, CUT_SECONDS)
        sent = call.future(
            request.SerializeToString(),
            metadata=caller.metadata,
            timeout=wait if turn % 2 else None,
        )
        try:
            sent.result(timeout=None if turn % 2 else wait)
        except (grpc.RpcError, grpc.FutureTimeoutError):
            lost += 1
        sent.cancel()
    assert lost > 0
    first = [callers[(turn + 1) % CONNECTIONS].ask(one) for turn, one in enumerate(requests)]
    again = [callers[(turn + 2) % CONNECTIONS].ask(one) for turn, one in enumerate(requests)]
    assert first == again
    assert {one.key.access_key for one in first} == set(keys_of(root, project))
    assert CUT == len(keys_of(root, project)) == len({one.revision for one in first})
    assert {"VALID"} == {verdict(root, one.secret_key) for one in first}


@pytest.mark.case(15)
def test_retry_after_a_kill_creates_no_second_key(
    start_server: Start, transport: str, connect: Connect
) -> None:
    """After kill -9 a retry gets the committed answer, acknowledged before or not."""
    flags = ("--transport", transport, "--workers", "2")
    server = start_server(*flags)
    callers = connect(server)
    project = new_project(callers[0])
    requests = [key_request(project, request_id=new_id()) for _ in range(KILLED)]
    answers: dict[int, Any] = {}

    def send(turn: int) -> None:
        with suppress(grpc.RpcError):  # the server is killed under some calls
            answers[turn] = callers[turn % CONNECTIONS].ask(requests[turn])

    with ThreadPoolExecutor(4) as pool:
        sending = [pool.submit(send, turn) for turn in range(KILLED)]
        wait_until(lambda: len(answers) >= KILLED // 8)
        server.kill()
        for one in sending:
            one.result()
    answered = dict(answers)
    assert KILLED // 8 <= len(answered) < KILLED
    root = connect(start_server(*flags))[0]
    retried = [root.ask(request) for request in requests]
    assert answered == {turn: retried[turn] for turn in answered}
    assert sorted(one.key.access_key for one in retried) == sorted(keys_of(root, project))
    assert {"VALID"} == {verdict(root, one.secret_key) for one in retried}


def test_request_id_and_token_are_not_in_the_files(
    two_workers: ServerProcess, connect: Connect
) -> None:
    """The id is stored as a hash, the token sealed; public access keys are found."""
    root = connect(two_workers)[0]
    project, request_id = new_project(root), new_id()
    made = root.ask(key_request(project, request_id=request_id))
    wanted = pb.RotateKeyRequest(access_key=made.key.access_key, request_id=new_id())
    rotated = root.ask(wanted)
    revoke(root, access_key=made.key.access_key)
    kept = b"".join(
        path.read_bytes()
        for path in sorted(two_workers.data.iterdir())
        if path.name.startswith("keyauthority")
    )
    for access_key in (made.key.access_key, rotated.key.access_key):
        assert access_key.encode() in kept
    for token in (made.secret_key, rotated.secret_key):
        assert token.encode() not in kept
        assert token[29:72].encode() not in kept
    for one in (request_id, wanted.request_id):
        for form in (one.encode(), one.upper().encode(), uuid.UUID(one).hex.encode()):
            assert form not in kept
        assert uuid.UUID(one).bytes not in kept


def test_retry_returns_the_first_answer(root: Caller, project: str) -> None:
    """Later changes of the records do not show in it."""
    creating = key_request(project, request_id=new_id(), ttl=Duration(seconds=3600))
    made = root.ask(creating)
    rotating = pb.RotateKeyRequest(access_key=made.key.access_key, request_id=new_id())
    rotated = root.ask(rotating)
    update(root, made.key.access_key, disabled=True, purpose="changed")
    update(root, rotated.key.access_key, disabled=True, purpose="changed")
    assert made == root.ask(creating)
    assert rotated == root.ask(rotating)
    wanted = CreateProjectRequest(display_name="Shop", request_id=new_id())
    first = root.ask(wanted)
    update_project(root, first.project.project_id, display_name="Other", suspended=True)
    assert first == root.ask(wanted)


def test_retried_rotation_of_a_used_key_returns_the_same_answer(root: Caller, project: str) -> None:
    """The last use, written beside the record, is in both answers or in neither."""
    made = new_key(root, project)
    verdict(root, made.secret_key)
    wait_until(lambda: get_key(root, made.key.access_key).HasField("last_used_time"))
    request = pb.RotateKeyRequest(access_key=made.key.access_key, request_id=new_id())
    assert root.ask(request) == root.ask(request)


def test_reused_id_with_other_content_is_refused(root: Caller, project: str) -> None:
    """Any other field or method is refused; the existing record stays unchanged."""
    request_id = new_id()
    made = root.ask(key_request(project, request_id=request_id, purpose="one"))
    for other in (
        key_request(project, request_id=request_id, purpose="two"),
        key_request(project, request_id=request_id),
        key_request(project, "RESTRICTED", request_id=request_id, purpose="one"),
        key_request(new_project(root), request_id=request_id, purpose="one"),
        pb.RotateKeyRequest(access_key=made.key.access_key, request_id=request_id),
        CreateProjectRequest(display_name="one", request_id=request_id),
    ):
        assert REUSED == refused(root, other)
    assert made.key == get_key(root, made.key.access_key)
    assert [made.key.access_key] == keys_of(root, project)


def test_reused_id_error_precedes_only_state_errors(root: Caller, project: str) -> None:
    """INVALID_ARGUMENT and NOT_FOUND come before ALREADY_EXISTS, FAILED_PRECONDITION after."""
    old = new_key(root, project).key.access_key
    first = pb.RotateKeyRequest(access_key=old, request_id=new_id())
    successor = root.ask(first).key
    past = Timestamp(seconds=1)
    for other, expected in (
        (key_request(project, expire_time=past), ("INVALID_ARGUMENT", "INVALID_FIELD")),
        (key_request(absent_project()), ("NOT_FOUND", "PROJECT_NOT_FOUND")),
        (pb.RotateKeyRequest(access_key=ABSENT_KEY), ("NOT_FOUND", "KEY_NOT_FOUND")),
        (
            pb.RotateKeyRequest(access_key=successor.access_key, expire_time=past),
            ("INVALID_ARGUMENT", "INVALID_FIELD"),
        ),
        (pb.RotateKeyRequest(access_key=first.access_key, overlap=Duration()), REUSED),
    ):
        other.request_id = first.request_id
        assert expected == refused(root, other)


def test_request_id_is_case_insensitive(root: Caller, project: str) -> None:
    """A UUID is a number, in upper or lower case."""
    request_id = new_id()
    made = root.ask(key_request(project, request_id=request_id))
    assert made == root.ask(key_request(project, request_id=request_id.upper()))


def test_requests_without_an_id_create_one_key_each(root: Caller, project: str) -> None:
    """Only calls with an id are remembered."""
    for _ in range(2):
        new_key(root, project)
    assert 2 == len(keys_of(root, project))


def test_request_id_is_scoped_to_the_operator_lineage(root: Caller, project: str) -> None:
    """Another operator's equal id creates another key; a rotated operator keeps its own."""
    one, other = (new_operator(root, "*:*") for _ in range(2))
    request = key_request(project, request_id=new_id())
    made = one.ask(request)
    assert made.key.access_key != other.ask(request).key.access_key
    successor = root.bearing(bearer(rotate(one, one.key.access_key, 0).secret_key))
    assert made == successor.ask(request)
    assert 2 == len(keys_of(root, project))


@pytest.mark.parametrize("by", ["access key", "secret"])
def test_retry_after_the_revocation_is_refused(root: Caller, project: str, by: str) -> None:
    """A revoked secret is never returned again; the key stays revoked."""
    creating = key_request(project, request_id=new_id())
    made = root.ask(creating)
    rotating = pb.RotateKeyRequest(access_key=made.key.access_key, request_id=new_id())
    rotated = root.ask(rotating)
    for request, answer in ((creating, made), (rotating, rotated)):
        named = {"access_key": answer.key.access_key}
        revoke(root, **(named if by == "access key" else {"secret_key": answer.secret_key}))
        assert ("FAILED_PRECONDITION", "REPLAY_REVOKED") == refused(root, request)
        assert key_pb2.KEY_STATE_REVOKED == get_key(root, answer.key.access_key).state
    assert 2 == len(keys_of(root, project))


def test_retried_rotation_succeeds_after_the_old_key_is_revoked(root: Caller, project: str) -> None:
    """The returned secret is the successor's, which is not revoked."""
    made = new_key(root, project)
    request = pb.RotateKeyRequest(access_key=made.key.access_key, request_id=new_id())
    rotated = root.ask(request)
    revoke(root, access_key=made.key.access_key)
    assert rotated == root.ask(request)


def test_failed_request_is_not_remembered(root: Caller, project: str) -> None:
    """The id of a refused call is free: the call succeeds once it can."""
    made = IN_STATE["DISABLED"](root, project)
    request = pb.RotateKeyRequest(access_key=made.key.access_key, request_id=new_id())
    assert ("FAILED_PRECONDITION", "KEY_STATE") == refused(root, request)
    update(root, made.key.access_key, disabled=False)
    rotated = root.ask(request)
    assert made.key.access_key == rotated.key.predecessor_access_key
    assert lasting(rotated.key) == get_key(root, rotated.key.access_key)


def test_retry_without_the_right_is_refused(root: Caller, project: str) -> None:
    """A retry needs the same right as the first call."""
    operator = new_operator(root, "keys:create")
    request = key_request(project, request_id=new_id())
    operator.ask(request)
    update(root, operator.key.access_key, permissions=["keys:read"])
    assert ("PERMISSION_DENIED", "PERMISSION_MISSING") == refused(operator, request)
