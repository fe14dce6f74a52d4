"""Stalled watches: their memory is bounded in bytes, for all of them together."""

from __future__ import annotations

import socket
import struct
import time
from contextlib import ExitStack
from typing import Final

import grpc

from keyauthority.v1 import key_authority_service_pb2 as pb
from tests.conftest import Start
from tests.faults.attacks import MIB, resident
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
from tests.proofs import Proof, scaled
from tests.service.callers import Caller, new_key, new_project
from tests.service.watches import following, watching

RECORDS: Final = 24
STALLED: Final = scaled(short=60, each=200)
SMALL_WINDOW: Final = (("grpc.http2.bdp_probe", 0), ("grpc.use_local_subchannel_pool", 1))
HELD_MAX: Final = 128 * MIB + STALLED * 768 * 1024  # of pages, and of each stream three messages
UNREAD_SECONDS: Final = 3.0 if STALLED < 100 else 12.0  # in which an unbounded server sends it all
PATH: Final = "/keyauthority.v1.KeyAuthorityService/WatchChanges"
METHODS: Final = [f"{number:03}{'m' * 500}" for number in range(100)]
RESTRICTIONS: Final = {
    "api_targets": [{"service": f"s{number}", "methods": METHODS} for number in range(4)]
}


def test_stalled_watches_are_bounded_by_bytes(
    start_server: Start, transport: str, proof: Proof
) -> None:
    """A live watcher keeps up beside them, and a new one gets the whole snapshot."""
    server = start_server("--transport", transport)
    with ExitStack() as opened:
        channel = opened.enter_context(grpc.insecure_channel(server.address))
        root = Caller(channel, server.metadata)
        project = new_project(root)
        for _ in range(RECORDS):
            new_key(root, project, restrictions=RESTRICTIONS)
        quiet = opened.enter_context(grpc.insecure_channel(server.address, SMALL_WINDOW))
        silent = Caller(quiet, server.metadata)
        before = resident(server)
        stalled = [
            opened.enter_context(watching(silent, project_id=project, snapshot=True))
            for _ in range(STALLED)
        ]
        for one in stalled:
            one.next()
        with following(root) as live:
            live.checkpoint(new_key(root, project).revision)
        with watching(root, project_id=project, snapshot=True) as fresh:
            fresh.checkpoint()
            assert len(fresh.changes) > RECORDS
        held = resident(server) - before
    assert HELD_MAX > held
    proof.done(f"{STALLED} unread watches of {RECORDS} large records: {held / MIB:.0f} MiB held")


def test_watches_on_a_socket_that_is_not_read_are_bounded(
    start_server: Start, transport: str, proof: Proof
) -> None:
    """All on one connection whose window is used up: no server queues whole snapshots for them."""
    server = start_server("--transport", transport)
    host, _, port = server.address.rpartition(":")
    with ExitStack() as opened:
        channel = opened.enter_context(grpc.insecure_channel(server.address))
        root = Caller(channel, server.metadata)
        project = new_project(root)
        for _ in range(RECORDS):
            new_key(root, project, restrictions=RESTRICTIONS)
        body = pb.WatchChangesRequest(project_id=project, snapshot=True).SerializeToString()
        opening, before = headers(PATH, server.metadata), resident(server)
        frames = [PREFACE, frame(SETTINGS, 0, 0)]
        for number in range(STREAM, STREAM + 2 * STALLED, 2):
            frames.append(opening[:5] + struct.pack(">I", number) + opening[9:])
            frames.append(frame(DATA, END_STREAM, number, message(body)))
        unread = opened.enter_context(socket.create_connection((host, int(port)), 20))
        unread.sendall(b"".join(frames))
        held, end = 0, time.monotonic() + UNREAD_SECONDS
        while time.monotonic() < end:
            with following(root) as live:
                live.checkpoint(new_key(root, project).revision)
            held = max(held, resident(server) - before)
    assert HELD_MAX > held
    proof.done(f"{STALLED} watches on an unread socket: {held / MIB:.0f} MiB held")
