"""Floods of open calls: the flooding peer is bounded, all others are served."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

import grpc
import pytest
from grpc_health.v1 import health_pb2

from keyauthority.v1 import key_authority_service_pb2 as pb
from tests.conftest import NATIVE_AT_LEAST, Start
from tests.faults.attacks import MIB, metered, resident
from tests.faults.frames import (
    DATA,
    END_STREAM,
    PREFACE,
    SETTINGS,
    STREAM,
    frame,
    headers,
    message,
)
from tests.proofs import PROVE, Proof, scaled
from tests.service.callers import Caller, new_key, new_project, revoke
from tests.service.certificates import ServerTls, server_tls
from tests.service.processes import wait_until
from tests.service.watches import following

SERVICE: Final = "/keyauthority.v1.KeyAuthorityService"
HEALTH: Final = "/grpc.health.v1.Health"
REFLECTION: Final = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
CONNECTIONS: Final = scaled(short=4, each=10)
STREAMS: Final = 1000  # calls on each connection
WAIT_MAX: Final = {"grpcio": 5.0, "native": 1.0 if PROVE else 5.0, "tls": 1.0}
"""Seconds of an honest call beside them: grpcio takes 0.2 ms for each call that is opened."""
KEPT_MAX: Final = {
    "grpcio": (384 if PROVE else 128) * MIB,
    "native": 384 * MIB,
    "tls": 384 * MIB,
}
"""Of the calls of each connection C-core keeps some 25 MiB; more of such floods add nothing."""


class Flood(NamedTuple):
    """Calls of one kind, all of them left open."""

    path: str
    body: bytes | None
    """None sends no message."""
    metadata: tuple[tuple[str, str], ...] = ()


FLOODS: Final = {
    "health watches": Flood(f"{HEALTH}/Watch", b""),
    "health checks without a message": Flood(f"{HEALTH}/Check", None),
    "reflection": Flood(REFLECTION, None),
    "Verify without a credential or a message": Flood(f"{SERVICE}/Verify", None),
    "RevokeKey without a message": Flood(f"{SERVICE}/RevokeKey", None),
    "WatchChanges without a credential": Flood(f"{SERVICE}/WatchChanges", None),
    "an unknown method": Flood("/no.such.Service/Method", None),
}


@contextmanager
def flooding(
    address: str, flood: Flood, tls: ServerTls | None = None
) -> Iterator[list[socket.socket]]:
    """Open the calls over their connections, which are held for the block."""
    host, _, port = address.rpartition(":")
    opening = headers(flood.path, flood.metadata)
    with ExitStack() as stack:
        opened = []
        for _ in range(CONNECTIONS):
            frames = [PREFACE, frame(SETTINGS, 0, 0)]
            for number in range(STREAM, STREAM + 2 * STREAMS, 2):
                own = struct.pack(">I", number)
                frames.append(opening[:5] + own + opening[9:])
                if flood.body is not None:
                    frames.append(frame(DATA, END_STREAM, number, message(flood.body)))
            one = tls.connect(address) if tls else socket.create_connection((host, int(port)), 20)
            stack.enter_context(one)
            with suppress(OSError):  # the server may end it within the flood
                one.sendall(b"".join(frames))
            opened.append(one)
        yield opened


def answers_health(channel: grpc.Channel) -> bool:
    """True if the server says that it serves."""
    check: Callable[..., bytes] = channel.unary_unary(f"{HEALTH}/Check")
    status = health_pb2.HealthCheckResponse.FromString(check(b"", timeout=20)).status
    return bool(status == health_pb2.HealthCheckResponse.SERVING)


@pytest.mark.parametrize(
    "transport", [*NATIVE_AT_LEAST, pytest.param("tls", marks=pytest.mark.prove)]
)
def test_flood_of_open_calls_refuses_no_other_peer(
    start_server: Start, transport: str, tmp_path: Path, proof: Proof
) -> None:
    """Verify, RevokeKey, health and watches are served during and after each flood."""
    tls = server_tls(tmp_path) if transport == "tls" else None
    server = start_server(*(tls.flags if tls else ("--transport", transport)))
    waits: list[float] = []
    with tls.channel(server.address) if tls else grpc.insecure_channel(server.address) as channel:
        root = Caller(channel, server.metadata)
        project = new_project(root)
        secret_key = new_key(root, project).secret_key
        before = resident(server)
        for what, flood in FLOODS.items():
            victim = new_key(root, project)
            with metered(server, root, secret_key) as meter, flooding(server.address, flood, tls):
                wait_until(lambda: answers_health(channel))
                revoked = revoke(root, access_key=victim.key.access_key)
                with following(root) as watch:
                    watch.checkpoint(revoked.revision)
                assert answers_health(channel)
            assert WAIT_MAX[transport] > meter.cost.worst, what
            waits += meter.cost.waits
        kept = resident(server) - before
    assert KEPT_MAX[transport] > kept
    waits.sort()
    proof.done(
        f"{len(FLOODS)} floods of {CONNECTIONS * STREAMS} open calls over {CONNECTIONS} "
        f"connections: honest Verify p99 {waits[len(waits) * 99 // 100] * 1000:.0f} ms, worst "
        f"{waits[-1] * 1000:.0f} ms; memory grew by {kept / MIB:.0f} MiB"
    )


@pytest.mark.parametrize("transport", ["grpcio"])
def test_call_without_its_message_is_ended(start_server: Start, transport: str) -> None:
    """Beyond the bound the oldest such calls are ended first."""
    server = start_server("--transport", transport)
    with flooding(server.address, Flood(f"{SERVICE}/RevokeKey", None)) as opened:
        for one in opened[:2]:
            one.settimeout(20)
            assert one.recv(65_536)
    with grpc.insecure_channel(server.address) as channel:
        body = pb.RevokeKeyRequest(secret_key="x").SerializeToString()
        refused = Caller(channel).outcome("RevokeKey", body)
    assert refused is not None
    assert "UNAUTHENTICATED" == refused.code.name
