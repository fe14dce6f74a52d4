"""kill -9 of a random process at a random time under 50 % writes: the oracle holds."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import grpc
import pytest

from tests.conftest import Start
from tests.faults.oracle import (
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
from tests.postgres import Cluster
from tests.proofs import PROVE, Proof
from tests.service.callers import Caller, new_project
from tests.service.forkserver import forkserver
from tests.service.processes import ServerProcess, is_alive, wait_until

SHORT: Final = 2  # cycles of each engine in `make test`
CYCLES: Final = {"sqlite": 40 * PROVE, "postgres": 10 * PROVE}
GENERATION: Final = 10  # cycles on one store: its whole journal is judged after each
WRITERS: Final = 4
WRITES: Final = 20  # acknowledged in a cycle before the clock runs
LATEST: Final = 0.2  # seconds after that

Starter = Callable[[Path, Sequence[str]], ServerProcess]


@dataclass
class World:
    """A store with changing servers, and the answers of clients."""

    start: Callable[[], ServerProcess]
    store: Store
    server: ServerProcess
    journal: Journal
    drawn: random.Random
    killed: dict[str, int] = field(default_factory=lambda: {"worker": 0, "supervisor": 0, "all": 0})

    def cycle(self, number: int) -> None:
        """Kill one process or, every second time, all, in the midst of load; then judge."""
        everyone = [self.server.process.pid, *self.server.worker_pids()]
        victims = everyone if number % 2 else [self.drawn.choice(everyone)]
        under_load(self.server, self.journal, victims, self.drawn.uniform(0, LATEST))
        last = self.server.process.pid in victims
        self.killed["all" if len(victims) > 1 else "supervisor" if last else "worker"] += 1
        if last:
            self.server = self.start()
        with calling(self.server) as caller:
            try:
                judge(self.journal, caller, self.store)
            except AssertionError as failure:
                failure.add_note(f"cycle {number}, killed {victims} of {everyone}")
                raise


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


def world(start: Starter, data: Path, url: str, drawn: random.Random) -> World:
    """Start a server on a store that is empty."""
    flags = ["--workers", "2", "--transport", "grpcio" if url else "native"]
    if url:  # a busy machine may fail to prove freshness each second, which is not tested here
        flags += ["--store", url, "--max-staleness", "30s"]
    server = start(data, flags)
    store: Store = PostgresStore(data, url) if url else SqliteStore(data)
    with calling(server) as caller:
        journal = Journal(new_project(caller))
    return World(lambda: start(data, flags), store, server, journal, drawn)


def lose_in_the_mind(one: World) -> None:
    """The controls: a revocation that was never made, and a creation never acknowledged."""
    journal = one.journal
    asked = {line.access_key for line in journal.lines if line.operation == REVOKE}
    kept = next(line for line in journal.acknowledged(CREATE) if line.access_key not in asked)
    with calling(one.server) as caller:
        believed = Journal(journal.project_id, list(journal.lines))
        believed.lines.append(Line(REVOKE, "", kept.access_key, 0.0, status=OK))
        with pytest.raises(AssertionError, match=f"{kept.access_key}: VERDICT_VALID"):
            judge(believed, caller, one.store)
        journal.lines.remove(kept)
        with pytest.raises(AssertionError, match="no request leads to"):
            judge(journal, caller, one.store)


@pytest.mark.case(19)
@pytest.mark.parametrize("engine", ["sqlite", "postgres"])
def test_killed_processes_keep_acknowledged_changes(
    start_server: Start, engine: str, data: Path, request: pytest.FixtureRequest
) -> None:
    """For any process and any time the oracle holds; controls show that it can fail."""
    url = request.getfixturevalue("cluster").create() if engine == "postgres" else ""
    one = world(lambda _, flags: start_server(*flags), data, url, random.Random())
    for number in range(SHORT):
        one.cycle(number)
    lose_in_the_mind(one)
    assert 0 == one.server.stop().code


@pytest.mark.prove
@pytest.mark.case(19)
@pytest.mark.parametrize("engine", ["sqlite", "postgres"])
def test_many_kills_keep_acknowledged_changes(
    engine: str, tmp_path: Path, proof: Proof, request: pytest.FixtureRequest
) -> None:
    """Some hundred kills, on servers that are started without exec."""
    drawn = random.Random(seed := random.randrange(2**32))
    killed = {"worker": 0, "supervisor": 0, "all": 0}
    created = revoked = unknown = cycles = 0
    with forkserver() as forks:
        while cycles < CYCLES[engine]:
            data = tmp_path / f"generation-{cycles}"
            url = ""
            if engine == "postgres":
                cluster: Cluster = request.getfixturevalue("cluster")
                url = cluster.create()
            one = world(lambda data, flags: forks.start(data, *flags), data, url, drawn)
            try:
                for number in range(GENERATION):
                    one.cycle(number)
                    cycles += 1
                created += len(one.journal.acknowledged(CREATE))
                revoked += len(one.journal.acknowledged(REVOKE))
                unknown += len(one.journal.unknown(REVOKE))
                lose_in_the_mind(one)
            except AssertionError as failure:
                failure.add_note(f"seed {seed}, after {cycles} cycles in {data}")
                raise
            finally:
                one.server.kill()
            for kind, number in one.killed.items():
                killed[kind] += number
    proof.done(
        f"{engine}: {cycles} kills ({', '.join(f'{k} {n}' for k, n in killed.items())}), "
        f"{created} creations and {revoked} revocations acknowledged, 0 lost, 0 revoked accepted; "
        f"{unknown} revocations without an answer"
    )
    proof.control(f"a revocation nobody made, and a lost line, were seen {cycles // GENERATION}x")
