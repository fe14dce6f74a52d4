"""Thousands of silent, slow or flooding connections: other clients are served.

The native transport in plaintext, which serves this machine only, knows no limit of connections.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

import grpc
import pytest

from keyauthority_server.transport.tls_front import HANDSHAKES_MAX
from tests.conftest import Start
from tests.faults.frames import PING, PREFACE, RST_STREAM, SETTINGS, STREAM, frame, headers
from tests.faults.soak import MIB, held
from tests.proofs import PROVE, Proof, scaled
from tests.service.callers import Caller, new_key, new_project, verdict
from tests.service.certificates import server_tls
from tests.service.processes import ServerProcess, wait_until

SILENT: Final = min(2000, scaled(short=200, each=2000))
DRIBBLE_EVERY: Final = 4  # of the silent, one says a byte now and then
FLOODS: Final = 8
CALLS: Final = scaled(short=50, each=200)
P99_MAX: Final = 2.0  # seconds, on a busy machine whose floods take half of it
CONNECTION_BYTES: Final = 64 << 10  # bytes that one may leave behind, at most
STAY: Final = {
    "grpcio": SILENT,
    # The oldest beyond a peer's share of the handshakes close, and those that do not say TLS.
    "tls": min(SILENT, HANDSHAKES_MAX // 2) * (DRIBBLE_EVERY - 1) // DRIBBLE_EVERY,
}
KEPT_MAX: Final = {"grpcio": 0, "tls": 16 << 20}  # bytes: sessions of the floods are larger
AGAIN_MAX: Final = 32 << 20  # bytes: the second run reuses memory; over eight it grows by 45 MiB
POOL_MAX: Final = 16  # threads of grpcio's own, which come with work and stay for a while
ROUNDS: Final = 2 if PROVE else 1
OPENED: Final = struct.pack(">HI", 4, 65_535)  # a setting: the window of a stream, as it is anyway
PATH: Final = "/keyauthority.v1.KeyAuthorityService/Verify"

PINGS: Final = frame(PING, 0, 0, b"12345678") * 50
SETTINGS_AGAIN: Final = frame(SETTINGS, 0, 0, OPENED) * 50


def reset(number: int) -> bytes:
    """A call that is given up as soon as it is opened; each has the next odd number."""
    opened = bytearray(headers(PATH, ()))
    opened[5:9] = struct.pack(">I", number)
    return bytes(opened) + frame(RST_STREAM, 0, number, struct.pack(">I", 8))


def connect(address: str) -> socket.socket:
    """Open a connection of bytes."""
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), 20)


Connect = Callable[[str], socket.socket]
"""Opens a connection on which HTTP/2 may begin."""


def dribble(connections: list[socket.socket], stop: threading.Event) -> None:
    """Say the next byte of the preface over some connections, now and then."""
    said = 0
    while not stop.wait(0.2):
        byte = PREFACE[said % len(PREFACE) :][:1]
        for one in connections:
            with suppress(OSError):  # it was let go of, as it should be
                one.send(byte)
        said += 1


def flood(address: str, opened: Connect, kind: int, stop: threading.Event) -> None:
    """Send frames that cost an answer as fast as they are taken, on connection after connection."""
    while not stop.is_set():
        with suppress(OSError), opened(address) as one:
            one.sendall(PREFACE + frame(SETTINGS, 0, 0))
            one.settimeout(1.0)
            for number in range(STREAM, 2000, 2):
                if stop.is_set():
                    return
                one.sendall((PINGS, SETTINGS_AGAIN, reset(number))[kind])
                with suppress(TimeoutError):
                    one.recv(65_536)


@contextmanager
def harassed(server: ServerProcess, opened: Connect) -> Iterator[None]:
    """Hold thousands of connections and let some flood, for the block."""
    stop = threading.Event()
    with ExitStack() as stack:
        silent = [stack.enter_context(connect(server.address)) for _ in range(SILENT)]
        threads = [threading.Thread(target=dribble, args=(silent[::DRIBBLE_EVERY], stop))]
        threads += [
            threading.Thread(target=flood, args=(server.address, opened, number % 3, stop))
            for number in range(FLOODS)
        ]
        for one in threads:
            one.start()
        try:
            yield
        finally:
            stop.set()
            for one in threads:
                one.join()


def waits(caller: Caller, secret_key: str) -> list[float]:
    """Verify some times, each of which must be answered; return the seconds it took, sorted."""
    found = []
    for _ in range(CALLS):
        began = time.monotonic()
        assert "VALID" == verdict(caller, secret_key)
        found.append(time.monotonic() - began)
    return sorted(found)


@pytest.mark.case(33)
@pytest.mark.parametrize("transport", ["grpcio", pytest.param("tls", marks=pytest.mark.prove)])
def test_hostile_connections_do_not_delay_other_clients(
    start_server: Start, transport: str, tmp_path: Path, proof: Proof
) -> None:
    """Calls are answered in time meanwhile; afterwards no memory is held."""
    if transport == "tls":
        made = server_tls(tmp_path)
        server = start_server(*made.flags)
        opened: Connect = made.connect
        channel = made.channel(server.address)
    else:
        server, opened = start_server("--transport", "grpcio"), connect
        channel = grpc.insecure_channel(server.address)
    with channel:
        root = Caller(channel, server.metadata)
        secret_key = new_key(root, new_project(root)).secret_key
        calm, base = waits(root, secret_key), held(server)
        stay = base.descriptors + STAY[transport]
        afterwards, during, most = [], calm, base
        for _ in range(ROUNDS):
            with harassed(server, opened):
                # The control: they are there, as many as may stay.
                wait_until(lambda: held(server).descriptors >= stay, 60)
                during, most = waits(root, secret_key), held(server)
            wait_until(lambda: held(server).descriptors <= base.descriptors + 1, 60)
            afterwards.append(held(server))
        after = afterwards[-1]
        assert "VALID" == verdict(root, secret_key)
    p99 = during[len(during) * 99 // 100]
    assert p99 < P99_MAX
    assert after.memory < base.memory + SILENT * CONNECTION_BYTES + KEPT_MAX[transport]
    assert after.memory < afterwards[0].memory + AGAIN_MAX
    assert after.threads <= base.threads + POOL_MAX
    proof.done(
        f"{SILENT} connections, {SILENT // DRIBBLE_EVERY} of them dribbling, {FLOODS} flooding: "
        f"Verify p99 {p99 * 1000:.0f} ms ({calm[len(calm) * 99 // 100] * 1000:.0f} before); "
        f"memory {base.memory / MIB:.0f} -> {most.memory / MIB:.0f} -> {after.memory / MIB:.0f} MiB"
    )
    proof.control(f"descriptors {base.descriptors} -> {most.descriptors} -> {after.descriptors}")
