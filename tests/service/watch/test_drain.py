"""Watches during a drain, and beside stalled readers."""

from __future__ import annotations

import time
from contextlib import ExitStack

import grpc
import pytest

from keyauthority.v1 import project_service_pb2
from tests.conftest import Start
from tests.service.callers import Caller, new_key, new_project
from tests.service.metrics import scrape, value
from tests.service.processes import wait_until
from tests.service.watches import following, watching

STALLED = 50
RECORDS = 40  # of 24 KB: more than all the buffers between a server and a client who does not read
LABELS = {f"label-{number}": "x" * 255 for number in range(32)}
PERMISSIONS = [f"r{number}{'x' * 150}:read" for number in range(100)]
SMALL_WINDOW = (("grpc.http2.bdp_probe", 0), ("grpc.use_local_subchannel_pool", 1))
DRAIN_SECONDS = 12  # less than the stalled have to their deadline, which would end them too


@pytest.mark.case(34)
def test_stalled_watchers_delay_neither_others_nor_the_drain(
    start_server: Start, transport: str
) -> None:
    """A live watcher is served beside 50 stalled ones and is notified at SIGTERM."""
    server = start_server("--transport", transport, "--workers", "1")
    with ExitStack() as opened:
        channel = opened.enter_context(grpc.insecure_channel(server.address))
        root = Caller(channel, server.metadata)
        project = new_project(root)
        for _ in range(RECORDS):
            new_key(root, project, "RESTRICTED", labels=LABELS, permissions=PERMISSIONS)
        silent = Caller(
            opened.enter_context(grpc.insecure_channel(server.address, SMALL_WINDOW)),
            server.metadata,
        )
        stalled = [
            opened.enter_context(watching(silent, project_id=project, snapshot=True))
            for _ in range(STALLED)
        ]
        for one in stalled:
            one.next()
        live = opened.enter_context(following(root))
        last = root.ask(project_service_pb2.CreateProjectRequest(display_name="told"))
        live.checkpoint(last.revision)
        assert "told" == live.changes[-1].project.display_name
        started = time.monotonic()
        server.process.terminate()
        assert "UNAVAILABLE" == live.refused().code.name
        ended = server.wait()
    assert 0 == ended.code
    assert time.monotonic() - started < DRAIN_SECONDS


def test_open_watches_are_counted(start_server: Start) -> None:
    """They count as watches while open, and as calls of their type when ended."""
    server = start_server("--metrics", "127.0.0.1:0")
    ended = ('grpc_method="WatchChanges"', 'grpc_type="server_stream"', 'grpc_code="CANCELLED"')
    with grpc.insecure_channel(server.address) as channel:
        root = Caller(channel, server.metadata)
        with following(root), following(root):
            wait_until(lambda: value(scrape(server), "keyauthority_watchers ") == 2)
        wait_until(lambda: value(scrape(server), "keyauthority_watchers ") == 0)
        wait_until(lambda: value(scrape(server), "grpc_server_handled_total", *ended) == 2)


@pytest.mark.case(29)
def test_watch_continues_on_another_server_without_gap_or_repeat(start_server: Start) -> None:
    """Changes before the drain arrive before the end, later ones after the resume."""
    server = start_server()
    names = []
    with grpc.insecure_channel(server.address) as channel:
        root = Caller(channel, server.metadata)
        project = new_project(root)
        with following(root, project_id=project) as watch:
            names += [new_key(root, project).key.access_key for _ in range(3)]
            server.process.terminate()
            assert "UNAVAILABLE" == watch.refused().code.name
            reached = watch.reached
            told = [one.keys[0].access_key for one in watch.changes]
    assert 0 == server.wait().code
    again = start_server()
    with grpc.insecure_channel(again.address) as channel:
        root = Caller(channel, again.metadata)
        last = new_key(root, project)
        names.append(last.key.access_key)
        with watching(root, project_id=project, from_revision=reached) as watch:
            watch.checkpoint(last.revision)
            told += [one.keys[0].access_key for one in watch.changes]
    assert names == told
