"""Clients that leave a call at any moment: the server logs no failure, and serves the others."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import nullcontext
from typing import Any, Final, NamedTuple

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.exceptions import ProtocolError
from structlog.testing import capture_logs

from keyauthority.v1 import key_authority_service_pb2 as pb
from keyauthority_server.overload import OpenCalls
from keyauthority_server.rpc_types import Call
from keyauthority_server.transport import gate
from tests.conftest import HTTP_SERVER, each_grpc_transport
from tests.proofs import scaled
from tests.service.callers import Caller, new_project
from tests.service.http_channel import STREAM, envelope
from tests.service.processes import ServerProcess

CALLS: Final = scaled(60, 800)
MOMENTS: Final = (0, 0, 0.001, 0.005, 0.02)  # seconds, at which a client may leave
SEED: Final = 11
KEYS: Final = "/keyauthority.v1.KeyAuthorityService/"
_symbol: Final = reflection_pb2.ServerReflectionRequest(file_containing_symbol=KEYS[1:-1])
REQUESTS: Final = {
    f"{KEYS}WatchChanges": pb.WatchChangesRequest(snapshot=True).SerializeToString(),
    f"{KEYS}GetKey": pb.GetKeyRequest(access_key="KA7Q2M9X4T8B3N6W5R1P").SerializeToString(),
    "/grpc.health.v1.Health/Watch": health_pb2.HealthCheckRequest().SerializeToString(),
    "/grpc.health.v1.Health/Check": health_pb2.HealthCheckRequest(service="x").SerializeToString(),
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": _symbol.SerializeToString(),
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": b"\xff",
    "/absent.Service/Method": b"",
}
"""Some are answered with an error."""
FAILURES: Final = ("Traceback", "internal_error", "exception_never_retrieved")


class Client(NamedTuple):
    """A client that leaves."""

    drawn: random.Random
    address: tuple[str, int]
    metadata: tuple[tuple[str, str], ...]

    def connect(self) -> socket.socket:
        """Return a connection, which ends with a reset or in good order."""
        connection = socket.create_connection(self.address, 10)
        if self.drawn.random() < 0.5:
            linger = struct.pack("ii", 1, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        return connection

    def wait(self) -> None:
        """Let a moment pass."""
        time.sleep(self.drawn.choice(MOMENTS))

    def credential(self) -> tuple[tuple[str, str], ...]:
        """Return the right credential, or a wrong one or none."""
        wrong = (("x-auth-token", "op_live_wrong"),)
        return self.drawn.choice((self.metadata, self.metadata, wrong, ()))


def leave_over_grpc(client: Client) -> None:
    """Open calls on a connection, and leave each or all of them."""
    drawn = client.drawn
    with client.connect() as connection:
        frames = H2Connection(H2Configuration(header_encoding="utf-8"))
        frames.initiate_connection()
        connection.sendall(frames.data_to_send())
        for _ in range(drawn.randint(1, 4)):
            path, request = drawn.choice(sorted(REQUESTS.items()))
            call = frames.get_next_available_stream_id()
            pseudo = (
                (":method", "POST"),
                (":scheme", "http"),
                (":path", path),
                (":authority", "a"),
            )
            grpc_headers = (("content-type", "application/grpc"), ("te", "trailers"))
            frames.send_headers(call, [*pseudo, *grpc_headers, *client.credential()])
            message = struct.pack(">BI", 0, len(request)) + request
            for _ in range(drawn.randint(0, 3)):
                cut = drawn.choice((len(message), len(message), 3))
                frames.send_data(call, message[:cut])
                if cut < len(message):
                    break
            if drawn.random() < 0.5:
                frames.end_stream(call)
            connection.sendall(frames.data_to_send())
            client.wait()
            if drawn.random() < 0.5:
                frames.reset_stream(call, 8)
                connection.sendall(frames.data_to_send())
        client.wait()


def leave_over_http(client: Client) -> None:
    """Send a request, or a part of it, and leave."""
    drawn = client.drawn
    method, kind, body = drawn.choice(
        [
            ("WatchChanges", STREAM, envelope(b'{"snapshot": true}')),
            ("WatchChanges", STREAM, envelope(b'{"bogus": 1}')),
            ("GetKey", "application/json", b'{"accessKey": "KA7Q2M9X4T8B3N6W5R1P"}'),
        ]
    )
    headers = [("host", "a"), ("content-type", kind), ("content-length", str(len(body)))]
    head = "".join(f"{name}: {text}\r\n" for name, text in (*headers, *client.credential()))
    request = f"POST {KEYS}{method} HTTP/1.1\r\n{head}\r\n".encode() + body
    cut = drawn.choice((len(request), len(request), drawn.randrange(len(request))))
    with client.connect() as connection:
        connection.sendall(request[:cut])
        client.wait()


def check_nothing_failed(
    server: ServerProcess,
    caller: Caller,
    address: str,
    leave: Callable[[Client], None],
) -> None:
    """Have clients leave, and see that no failure is logged and the caller is served."""
    host, _, port = address.rpartition(":")
    client = Client(random.Random(SEED), (host, int(port)), server.metadata)
    logged = len(server.log_text())
    for _ in range(CALLS):
        with contextlib.suppress(OSError, ProtocolError):  # the server may be the first to leave
            leave(client)
    new_project(caller)
    log = server.log_text()[logged:]
    assert [] == [line for line in log.splitlines() if any(word in line for word in FAILURES)]


@each_grpc_transport
def test_client_that_leaves_a_call_over_grpc_is_no_failure(
    server: ServerProcess, root: Caller
) -> None:
    """Watches, health, reflection and unary calls: by resets, and by the end of the connection."""
    check_nothing_failed(server, root, server.address, leave_over_grpc)
    with grpc.insecure_channel(server.address) as channel:  # the worker has not lost its streams
        watch: Any = channel.unary_stream("/grpc.health.v1.Health/Watch")  # of bytes
        assert b"\x08\x01" == next(watch(b"", timeout=20))


async def test_message_that_cannot_be_written_is_no_failure() -> None:
    """Grpcio notices only in the write that the client has gone, if it has just gone."""

    class Gone:
        def invocation_metadata(self) -> tuple[()]:
            return ()

        def peer(self) -> str:
            return "ipv4:127.0.0.1:1"

        async def read(self) -> bytes:
            return b""

        async def write(self, _: bytes) -> None:
            raise grpc.aio.InternalError("execute_batch")

    async def follow(*_: object) -> AsyncGenerator[bytes]:
        yield b"message"

    entrance = gate.Gate(lambda _: Call((), "ipv4:127.0.0.1:1"), None)
    handler: Any = entrance.stream(follow, OpenCalls(10, 10), nullcontext())
    with capture_logs() as logged:
        await asyncio.create_task(handler.stream_stream(None, Gone()))
    assert [] == logged


@pytest.mark.parametrize("server", [HTTP_SERVER], indirect=True)
def test_client_that_leaves_a_call_over_http_is_no_failure(
    server: ServerProcess, root: Caller
) -> None:
    """Streams and unary calls: in the request, and before or in the answer."""
    check_nothing_failed(server, root, server.http, leave_over_http)
