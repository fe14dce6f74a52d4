"""kill -9 of a random process at a random time, while half of all calls write: the oracle holds."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final

import grpc
import pytest

from tests.conftest import Start
from tests.faults.journal import (
    CREATE,
    OK,
    REVOKE,
    Journal,
    Line,
    PostgresStore,
    SqliteStore,
    Store,
    judge,
    write_half,
)
from tests.service.callers import Caller, new_project
from tests.service.processes import ServerProcess, is_alive, wait_until

CYCLES: Final = 2 * int(os.environ.get("PROVE", "1"))  # of each transport
WRITERS: Final = 4
WRITES: Final = 20  # acknowledged in a cycle before the clock runs
LATEST: Final = 0.2  # seconds after that


@contextmanager
def calling(server: ServerProcess) -> Iterator[Caller]:
    """Give the first operator, on a connection of its own."""
    with grpc.insecure_channel(server.address) as channel:
        grpc.channel_ready_future(channel).result(timeout=20)
        yield Caller(channel, server.metadata)


def write(server: ServerProcess, journal: Journal, stop: threading.Event) -> None:
    """Be one client."""
    with grpc.insecure_channel(server.address) as channel:
        write_half(Caller(channel, server.metadata), journal, stop)


def kill_some(server: ServerProcess, victims: list[int]) -> None:
    """End processes of a server at once; if the supervisor is one of them see the rest end."""
    workers = server.worker_pids()
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not any(is_alive(pid) for pid in victims if pid != server.process.pid))
    if server.process.pid in victims:
        server.wait()
        wait_until(lambda: not any(map(is_alive, workers)))


def under_load(server: ServerProcess, journal: Journal, victims: list[int], moment: float) -> None:
    """Let clients write, and kill in the midst of it."""
    stop, before = threading.Event(), len(journal.acknowledged(CREATE))
    with ThreadPoolExecutor(WRITERS) as pool:
        clients = [pool.submit(write, server, journal, stop) for _ in range(WRITERS)]
        try:
            wait_until(lambda: len(journal.acknowledged(CREATE)) >= before + WRITES)
            stop.wait(moment)
            kill_some(server, victims)
        finally:
            stop.set()
    assert [None] * WRITERS == [client.result() for client in clients]


@pytest.mark.parametrize(("engine", "transport"), [("sqlite", "native"), ("postgres", "grpcio")])
def test_killed_processes_keep_what_was_acknowledged(
    start_server: Start, engine: str, transport: str, request: pytest.FixtureRequest
) -> None:
    """Whichever processes are killed, and whenever, the oracle holds; and it can fail."""
    drawn = random.Random(seed := random.randrange(2**32))
    flags = ["--transport", transport, "--workers", "2"]
    url = request.getfixturevalue("cluster").create() if engine == "postgres" else ""
    flags += ["--store", url] if url else []
    server = start_server(*flags)
    store: Store = PostgresStore(server.data, url) if url else SqliteStore(server.data)
    with calling(server) as caller:
        journal = Journal(new_project(caller))
    for cycle in range(CYCLES):
        everyone = [server.process.pid, *server.worker_pids()]
        victims = everyone if cycle % 2 else [drawn.choice(everyone)]
        under_load(server, journal, victims, drawn.uniform(0, LATEST))
        if server.process.pid in victims:
            server = start_server(*flags)
        with calling(server) as caller:
            try:
                judge(journal, caller, store)
            except AssertionError as failure:
                failure.add_note(f"seed {seed}, cycle {cycle}, killed {victims} of {everyone}")
                raise
    with calling(server) as caller:
        never_revoked = next(
            one
            for one in journal.acknowledged(CREATE)
            if one.access_key
            not in {line.access_key for line in journal.lines if line.operation == REVOKE}
        )
        believed = Journal(journal.project_id, list(journal.lines))
        line = Line(REVOKE, "", never_revoked.access_key, 0.0, status=OK)
        believed.lines.append(line)
        with pytest.raises(AssertionError, match=f"{never_revoked.access_key}: VERDICT_VALID"):
            judge(believed, caller, store)
        journal.lines.remove(never_revoked)
        with pytest.raises(AssertionError, match="no request leads to"):
            judge(journal, caller, store)
    assert 0 == server.stop().code
