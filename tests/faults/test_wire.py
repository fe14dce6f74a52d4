"""Lying frames and decompression bombs: rejected, run at most once, not kept."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import grpc
import pytest

from keyauthority.v1 import key_authority_service_pb2, project_service_pb2
from tests.conftest import SERVERS
from tests.faults.frames import (
    DATA,
    END_STREAM,
    HEADERS,
    PING,
    SECONDS,
    SETTINGS,
    STREAM,
    Frame,
    exchanged,
    frame,
    headers,
    message,
)
from tests.faults.fuzz import memory_of
from tests.service.callers import MIB, Caller, refusal, verify
from tests.service.processes import ServerProcess

ON_SQLITE: Final = [one for one in SERVERS if one.startswith("sqlite")]
GRPCIO: Final = [one for one in ON_SQLITE if "grpcio" in one]
QUIET_SECONDS: Final = 1.5  # in which most answers have arrived
PATH: Final = "/keyauthority.v1.ProjectService/CreateProject"
BODY: Final = project_service_pb2.CreateProjectRequest(display_name="framed").SerializeToString()

LIES: Final = {
    "more than comes": message(BODY, len(BODY) + 100),
    "less than comes": message(BODY, len(BODY) - 3),
    "four gigabytes": message(BODY, 2**32 - 1),
    "beyond the limit": message(BODY, 64 * MIB),
    "compressed and is not": message(BODY, flag=1),
    "no length at all": BODY[:3],
    "only a length": message(b"", 10),
}
"""Messages whose headers contradict their content."""

BROKEN: Final = {
    "a frame longer than it may be": frame(DATA, 0, STREAM, b"", 2**24 - 1),
    "a stream that is not open": frame(DATA, END_STREAM, 99, message(BODY)),
    "a stream of the server's": frame(HEADERS, 4, 2, b"\x82"),
    "headers that are none": frame(HEADERS, 5, 3, b"\xff" * 64),
    "settings of half a setting": frame(SETTINGS, 0, 0, b"\0\1\0"),
    "a ping of another length": frame(PING, 0, 0, b"1"),
    "no HTTP/2": b"GET / HTTP/1.1\r\n\r\n" * 3,
    "noise": bytes(range(256)) * 8,
}
"""Frames that end a connection, and no other."""


each_transport = pytest.mark.parametrize("server", ON_SQLITE, indirect=True)
"""Answers that name the newest revision, at any speed."""


def head(root: Caller) -> int:
    """The revision of the newest change."""
    return int(verify(root, "").revision)


def call(server: ServerProcess, *messages: bytes, seconds: float = SECONDS) -> list[Frame]:
    """Ask for a project, by these bytes in the place of the message."""
    opening = headers(PATH, server.metadata)
    sent = frame(DATA, END_STREAM, STREAM, b"".join(messages))
    return exchanged(server.address, opening, sent, seconds=seconds)


@each_transport
def test_wellformed_frames_are_served(server: ServerProcess, root: Caller) -> None:
    """Control: the same frames with honest lengths create a project."""
    before = head(root)
    answer = call(server, message(BODY))
    assert any(one.kind == DATA and b"framed" in one.body for one in answer)
    assert before + 1 == head(root)


@each_transport
def test_frame_with_a_false_length_has_no_effect(server: ServerProcess, root: Caller) -> None:
    """No answer, change or memory; grpcio keeps waiting for a message that never comes."""
    before, memory = head(root), memory_of(server)
    with ThreadPoolExecutor(len(LIES)) as pool:
        made = pool.map(lambda lie: call(server, lie, seconds=QUIET_SECONDS), LIES.values())
        answers = list(made)
    for lie, answer in zip(LIES, answers, strict=True):
        assert not [one for one in answer if one.kind == DATA and one.body], lie
    assert before == head(root)
    assert memory_of(server) - memory < 16 * MIB


@each_transport
def test_broken_frames_end_only_their_own_connection(server: ServerProcess, root: Caller) -> None:
    """Other connections are served by the same processes."""
    before, workers = head(root), server.worker_pids()
    opening = headers(PATH, server.metadata)
    with ThreadPoolExecutor(len(BROKEN)) as pool:
        answers = pool.map(
            lambda one: exchanged(server.address, opening, one, seconds=QUIET_SECONDS),
            BROKEN.values(),
        )
    assert not [one for answer in answers for one in answer if one.kind == DATA]
    assert (before, workers) == (head(root), server.worker_pids())


@each_transport
@pytest.mark.parametrize(
    "second", [message(BODY), BODY, b"\xff" * 20], ids=["whole", "bare", "noise"]
)
def test_bytes_after_a_message_run_no_second_handler(
    server: ServerProcess, root: Caller, second: bytes
) -> None:
    """In one frame or two, a unary call runs at most one handler."""
    before = head(root)
    call(server, message(BODY), second)
    middle = head(root)
    assert middle - before <= 1
    call(server, message(b""), second)
    later = head(root)
    assert later - middle <= 1
    one, last = frame(DATA, 0, STREAM, message(BODY)), frame(DATA, END_STREAM, STREAM, second)
    exchanged(server.address, headers(PATH, server.metadata), one, last)
    assert head(root) - later <= 1


@pytest.mark.parametrize("server", ["postgres-grpcio-1"], indirect=True)
@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_bomb_is_rejected(
    server: ServerProcess, root: Caller, compression: grpc.Compression
) -> None:
    """A message over 4 MiB when decompressed is rejected and not held."""
    request = key_authority_service_pb2.VerifyRequest(secret_key="x" * MIB)
    small = request.SerializeToString()
    with grpc.insecure_channel(server.address, compression=compression) as channel:
        verifying: Any = channel.unary_unary("/keyauthority.v1.KeyAuthorityService/Verify")
        assert verifying(small, metadata=server.metadata, timeout=20)
        memory = memory_of(server)
        for _ in range(2):
            with pytest.raises(grpc.RpcError) as failed:
                verifying(bytes(32 * MIB), metadata=server.metadata, timeout=20)
            assert "RESOURCE_EXHAUSTED" == refusal(failed.value).code.name
        assert memory_of(server) - memory < 24 * MIB
    assert head(root)


@each_transport
def test_message_over_four_mebibytes_is_rejected(server: ServerProcess, root: Caller) -> None:
    """It is rejected before parsing; one just below the limit is accepted."""
    request = key_authority_service_pb2.VerifyRequest(secret_key="x" * (4 * MIB - 100))
    assert key_authority_service_pb2.VERDICT_MALFORMED == root.ask(request).verdict
    request.secret_key += "x" * 200
    assert "RESOURCE_EXHAUSTED" == root.refused(request).code.name
