"""The connections of the HTTP end, by raw bytes: what is malformed, slow, cut or too much."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest

from keyauthority.v1 import project_service_pb2
from tests.conftest import HTTP_SERVER
from tests.service.callers import Caller, verify
from tests.service.http_channel import envelope
from tests.service.processes import ServerProcess, wait_until

pytestmark = pytest.mark.parametrize("server", [HTTP_SERVER], indirect=True)

SECONDS: Final = 20
VERIFY: Final = "/keyauthority.v1.KeyAuthorityService/Verify"
WATCH: Final = "/keyauthority.v1.KeyAuthorityService/WatchChanges"
CREATE: Final = "/keyauthority.v1.ProjectService/CreateProject"
BODY: Final = b'{"displayName": "raw"}'


def head(server: ServerProcess, *lines: str, path: str = CREATE, line: str = "") -> bytes:
    """The head of a request with the operator key, and these lines."""
    first = line or f"POST {path} HTTP/1.1"
    kept = [
        "host: authority.example",
        f"authorization: Bearer {server.operator_key}",
        "content-type: application/json",
    ]
    return "\r\n".join([first, *kept, *lines, "", ""]).encode("latin-1")


def create(server: ServerProcess, *lines: str, **more: str) -> bytes:
    """A request that makes a project."""
    return head(server, f"content-length: {len(BODY)}", *lines, **more) + BODY


@contextmanager
def connected(server: ServerProcess) -> Iterator[socket.socket]:
    """A connection to the HTTP end."""
    host, _, port = server.http.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=SECONDS) as connection:
        yield connection


def received(connection: socket.socket, responses: int | None = None) -> bytes:
    """The bytes up to the end of the connection, or of so many responses."""
    found = b""
    while responses is None or whole(found) < responses:
        try:
            piece = connection.recv(65536)
        except ConnectionResetError:
            break
        if not piece:
            break
        found += piece
    return found


def whole(found: bytes) -> int:
    """The number of whole responses."""
    count = 0
    while (end := found.find(b"\r\n\r\n")) >= 0:
        fields = found[:end].lower().split(b"\r\n")
        lengths = [int(one.split(b":")[1]) for one in fields if one.startswith(b"content-length")]
        size = end + 4 + sum(lengths)
        if len(found) < size:
            break
        found, count = found[size:], count + 1
    return count


def exchanged(server: ServerProcess, *sent: bytes) -> bytes:
    """The bytes that a connection answers to these pieces, up to its end."""
    with connected(server) as connection:
        for piece in sent:
            connection.sendall(piece)
        connection.shutdown(socket.SHUT_WR)
        return received(connection)


def statuses(found: bytes) -> list[int]:
    """The statuses of the responses."""
    return [int(one.split(b" ", 1)[0]) for one in found.split(b"HTTP/1.1 ")[1:]]


def revision(root: Caller) -> int:
    """The revision of the newest change."""
    return int(verify(root, "").revision)


CHUNKED: Final = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
SMUGGLED: Final = {
    "both lengths": ("content-length: 4", "transfer-encoding: chunked"),
    "both lengths, the other way": ("transfer-encoding: chunked", "content-length: 4"),
    "two lengths": ("content-length: 4", "content-length: 5"),
    "two equal lengths": ("content-length: 22", "content-length: 22"),
    "list of lengths": ("content-length: 22, 22",),
    "signed length": ("content-length: +22",),
    "negative length": ("content-length: -1",),
    "hexadecimal length": ("content-length: 0x16",),
    "length with a space": ("content-length: 2 2",),
    "length beyond 64 bits": ("content-length: 99999999999999999999999",),
    "space before the colon": ("content-length : 22",),
    "space before the coding": ("transfer-encoding : chunked",),
    "unknown coding": ("transfer-encoding: xchunked",),
    "coding after chunked": ("transfer-encoding: chunked, identity",),
    "two codings": ("transfer-encoding: identity", "transfer-encoding: chunked, x"),
    "folded header": ("content-length: 22", "x: a\r\n b: c"),
    "bare line feed in a header": ("content-length: 22", "x: a\nb: c"),
    "NUL in a header": ("content-length: 22", "x: a\0b"),
    "carriage return in a header": ("content-length: 22", "x: a\rb: c"),
    "name with a space": ("content-length: 22", "x y: a"),
    "name that is none": ("content-length: 22", ": a"),
    "no colon": ("content-length: 22", "x"),
    "second host": ("content-length: 22", "host: other.example"),
    "second content type": ("content-length: 22", "content-type: application/json"),
}


@pytest.mark.parametrize("why", SMUGGLED)
def test_ambiguous_request_is_rejected_and_ends_the_connection(
    server: ServerProcess, root: Caller, why: str
) -> None:
    """Nothing is executed, and no byte after the head is taken for a request."""
    before = revision(root)
    found = exchanged(server, head(server, *SMUGGLED[why]) + BODY + create(server))
    first, *others = statuses(found)
    assert 400 == first
    if not why.startswith("second"):
        assert [] == others
        assert before == revision(root)


MALFORMED: Final = {
    "noise": bytes(range(256)) * 4,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 64,
    "unknown version": b"GET /healthz HTTP/3.0\r\nhost: x\r\n\r\n",
    "version of another framing": (
        f"POST {VERIFY} HTTP/2.0\r\nhost: x\r\nconnection: close\r\n"
        "content-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
    ).encode(),
    "fragment in the target": b"GET /healthz#x HTTP/1.1\r\nhost: x\r\n\r\n",
    "no version": b"GET /healthz\r\n\r\n",
    "unknown method": b"BREW /healthz HTTP/1.1\r\nhost: x\r\n\r\n",
    "lower-case method": b"get /healthz HTTP/1.1\r\nhost: x\r\n\r\n",
    "no host": b"GET /healthz HTTP/1.1\r\n\r\n",
    "space in the target": b"GET /health z HTTP/1.1\r\nhost: x\r\n\r\n",
}


@pytest.mark.parametrize("why", MALFORMED)
def test_malformed_request_is_a_json_error(server: ServerProcess, why: str) -> None:
    """Without text of a library, and the connection ends."""
    found = exchanged(server, MALFORMED[why])
    assert [400] == statuses(found)
    error = json.loads(found.partition(b"\r\n\r\n")[2])
    assert "invalid_argument" == error["code"]
    assert error["message"].startswith("malformed HTTP request")


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("GET http://other.example/healthz HTTP/1.1", 200),
        ("GET /healthz HTTP/1.0", 200),
        ("GET /healthz?x=1 HTTP/1.1", 200),
        ("OPTIONS * HTTP/1.1", 405),
        ("GET //healthz HTTP/1.1", 405),
        ("GET /%68ealthz HTTP/1.1", 405),
        ("CONNECT authority.example:443 HTTP/1.1", 405),
        ("TRACE /healthz HTTP/1.1", 405),
    ],
)
def test_request_line_is_taken_exactly(server: ServerProcess, line: str, status: int) -> None:
    """The absolute form and HTTP/1.0 are served; paths are not normalized."""
    found = exchanged(server, head(server, line=line))
    assert status in statuses(found) or (line.startswith("CONNECT") and 400 in statuses(found))


def test_http_1_0_ends_with_its_response(server: ServerProcess) -> None:
    """Without a host, and the connection closes."""
    line = f"POST {CREATE} HTTP/1.0"
    with connected(server) as connection:
        connection.sendall(create(server, line=line).replace(b"host: authority.example\r\n", b""))
        found = received(connection)
    assert [200] == statuses(found)
    assert b"connection: close" in found


def test_pipelined_requests_are_answered_in_order(server: ServerProcess, root: Caller) -> None:
    """Each once, also those behind one that waits for a commit."""
    before = revision(root)
    health = head(server, line="GET /healthz HTTP/1.1")
    with connected(server) as connection:
        connection.sendall(create(server) + health + create(server) + health)
        found = received(connection, 4)
    assert [200] * 4 == statuses(found)
    assert [b"project", b"status", b"project", b"status"] == [
        one.partition(b'"')[2].partition(b'"')[0] for one in found.split(b"\r\n\r\n")[1:]
    ]
    assert before + 2 == revision(root)


def test_too_many_pipelined_requests_end_the_connection(server: ServerProcess) -> None:
    """Those that were taken are answered."""
    health = head(server, line="GET /healthz HTTP/1.1")
    found = exchanged(server, health * 500)
    assert 1 <= len(statuses(found)) <= 50
    assert {200} == set(statuses(found))


def test_garbage_after_a_request_does_not_answer_for_it(
    server: ServerProcess, root: Caller
) -> None:
    """The request is carried out and answered, and nothing more is read."""
    before = revision(root)
    found = exchanged(server, create(server) + b"\0garbage\r\n\r\n" + create(server))
    assert [200] == statuses(found)
    assert before + 1 == revision(root)


def test_chunked_body_is_read(server: ServerProcess, root: Caller) -> None:
    """Also byte by byte, with extensions and trailers."""
    before = revision(root)
    request = head(server, "transfer-encoding: chunked")
    single = b"".join(b"1;a=b\r\n%c\r\n" % one for one in BODY) + b"0\r\nx: y\r\n\r\n"
    with connected(server) as connection:
        connection.sendall(request + CHUNKED)
        assert [200] == statuses(received(connection, 1))
        for one in request + single:
            connection.sendall(bytes([one]))
        assert [200] == statuses(received(connection, 1))
    assert before + 2 == revision(root)


@pytest.mark.parametrize(
    "broken", [b"zz\r\n", b"-1\r\n", b"3\r\nabcde\r\n", b"ffffffffffffffffff\r\n", b"1 \0\r\n"]
)
def test_broken_chunk_is_rejected(server: ServerProcess, root: Caller, broken: bytes) -> None:
    """The request that it belongs to is not carried out."""
    before = revision(root)
    assert [400] == statuses(exchanged(server, head(server, "transfer-encoding: chunked") + broken))
    assert before == revision(root)


def test_trailer_is_no_header(server: ServerProcess) -> None:
    """A credential after the body does not count, also if all comes at once."""
    request = head(server, "transfer-encoding: chunked").replace(b"authorization", b"x-not")
    trailer = f"authorization: Bearer {server.operator_key}\r\n\r\n".encode()
    found = exchanged(server, request + CHUNKED[:-2] + trailer)
    assert [401] == statuses(found)


def test_headers_beyond_eight_kibibytes_are_too_large(server: ServerProcess) -> None:
    """In one header, many, the path, trailers, or without an end."""
    assert [200] == statuses(exchanged(server, create(server, "x: " + "y" * 7_000)))
    for sent in (
        create(server, "x: " + "y" * 9_000),
        create(server, *[f"x{n}: y" for n in range(2_000)]),
        create(server, path="/" + "y" * 9_000),
        head(server, "x: " + "y" * 400_000)[:-4],
        b"GET /" + b"y" * 400_000,
    ):
        found = exchanged(server, sent)
        assert [431] == statuses(found), sent[:40]
        assert b"MESSAGE_TOO_LARGE" in found
    chunked = head(server, "transfer-encoding: chunked") + CHUNKED[:-2]
    assert {431} >= set(statuses(exchanged(server, chunked + b"x: " + b"y" * 9_000 + b"\r\n\r\n")))


def test_client_that_waits_for_a_word_gets_it(server: ServerProcess) -> None:
    """A good request gets 100 Continue; one that is refused by its head gets no such word."""
    expecting = ("expect: 100-continue", f"content-length: {len(BODY)}")
    with connected(server) as connection:
        connection.sendall(head(server, *expecting))
        assert b"HTTP/1.1 100 Continue\r\n\r\n" == connection.recv(25, socket.MSG_WAITALL)
        connection.sendall(BODY)
        assert [200] == statuses(received(connection, 1))
    for wrong in (
        head(server, *expecting).replace(b"Bearer op_", b"Bearer no_"),
        head(server, *expecting, path="/x"),
    ):
        with connected(server) as connection:
            connection.sendall(wrong)
            found = received(connection)
        assert statuses(found)[0] in (401, 404)
        assert b"connection: close" in found


def test_upgrade_is_ignored(server: ServerProcess, root: Caller) -> None:
    """The request is answered as it is, and the connection ends."""
    before = revision(root)
    for upgrade in ("h2c", "websocket"):
        lines = ("connection: Upgrade, HTTP2-Settings", f"upgrade: {upgrade}", "http2-settings: A")
        assert [200] == statuses(exchanged(server, create(server, *lines)))
    assert before + 2 == revision(root)


def test_body_that_does_not_come_is_cut_off(server: ServerProcess, root: Caller) -> None:
    """A client that closes its side early is not served."""
    before = revision(root)
    found = exchanged(server, create(server)[:-1])
    assert statuses(found) in ([], [400])
    assert before == revision(root)


def test_refused_request_leaves_its_connection_usable(server: ServerProcess) -> None:
    """Its body is read first, so that it is not taken for the next request."""
    wrong = create(server).replace(b"Bearer op_", b"Bearer no_")
    with connected(server) as connection:
        for _ in range(3):
            connection.sendall(wrong + create(server))
            assert [401, 200] == statuses(received(connection, 2))


def test_stream_of_a_client_that_has_gone_ends(server: ServerProcess, root: Caller) -> None:
    """It does not count any longer."""
    body = envelope(b"{}")
    request = head(server, f"content-length: {len(body)}", path=WATCH)
    request = request.replace(b"application/json", b"application/connect+json") + body
    open_files = [files(server)]
    connections = []
    for _ in range(20):
        with connected(server) as connection:
            connection.sendall(request)
            connections.append(connection.recv(12))
    assert [b"HTTP/1.1 200"] * 20 == connections
    root.ask(project_service_pb2.CreateProjectRequest())
    wait_until(lambda: files(server) <= open_files[0] + 2)


def files(server: ServerProcess) -> int:
    """The descriptors that the workers have open."""
    from pathlib import Path

    return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in server.worker_pids())
