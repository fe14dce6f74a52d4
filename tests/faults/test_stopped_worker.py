"""A worker stopped during a write: others refuse in time, verify, and recover."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import grpc
import pytest

from keyauthority.v1 import key_authority_service_pb2 as pb
from tests.faults.conftest import Ground
from tests.faults.disk.failing import Order, give
from tests.faults.disk.vfs import OK
from tests.faults.oracle import CREATE, Journal, Store, judge
from tests.faults.test_failing_disk import DATABASE, connections
from tests.postgres import execute
from tests.proofs import Proof, scaled
from tests.service.callers import Caller, new_project
from tests.service.forkserver import ForkServer
from tests.service.processes import ServerProcess, wait_until

pytestmark = pytest.mark.xdist_group("forkserver")  # one for all

ROUNDS: Final = scaled(short=1, each=2)
IN_TIME: Final = 15.0  # seconds for a refusal: three times the store's wait, on a busy machine
AT_ONCE: Final = 2.0  # seconds for a Verify of a worker that runs, on a busy machine
CONNECTIONS_TRIED: Final = 20  # until one falls to the worker that runs
TRIES: Final = 200  # to stop a worker at the right moment
_IN_TRANSACTION: Final = (
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE datname = current_database() AND state = 'idle in transaction'"
)


def is_stopped(pid: int) -> bool:
    """True for a process that was stopped by a signal."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] == "T"


def stop_by_order(server: ServerProcess, order_path: Path) -> int:
    """Have the next worker that writes stop before it does; return which it was."""
    give(order_path, Order("write", OK, stop=True))
    stopped: list[int] = []

    def one() -> bool:
        stopped.extend(filter(is_stopped, server.worker_pids()))
        return bool(stopped)

    wait_until(one)
    return stopped[0]


def stop_when(server: ServerProcess, holds: Callable[[], bool]) -> int:
    """Stop a worker at some moments, until it is one at which the condition holds; return which."""
    for _ in range(TRIES):
        worker = server.worker_pids()[0]
        os.kill(worker, signal.SIGSTOP)
        wait_until(lambda pid=worker: is_stopped(pid))  # type: ignore[misc]
        if holds():
            return worker
        os.kill(worker, signal.SIGCONT)
    raise AssertionError("it held at no moment")


def nobody_writes(database: Path) -> bool:
    """True if neither of the writers' locks is held."""
    with ExitStack() as files:
        for suffix in (".gate", ".lock"):
            lock = files.enter_context(Path(f"{database}{suffix}").open("rb"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
    return True


def answered(caller: Caller, request: Any, seconds: float) -> tuple[str, float]:
    """Make a call with this timeout; return its status and its duration."""
    name = request.DESCRIPTOR.name.removesuffix("Request")
    call: Any = caller.channel.unary_unary(f"/keyauthority.v1.KeyAuthorityService/{name}")
    began = time.monotonic()
    try:
        call(request.SerializeToString(), metadata=caller.metadata, timeout=seconds)
    except grpc.RpcError as error:
        return error.code().name, time.monotonic() - began
    return "OK", time.monotonic() - began


def world(
    server: ServerProcess, store: Store, journal: Journal, stop: Callable[[ServerProcess], int]
) -> tuple[str, float]:
    """Stop a worker in a write, call the other, continue the first, and judge.

    The journal is that of all rounds on a server. Returns the status and duration of a creation
    meanwhile.
    """
    end = threading.Event()
    worker = 0
    with connections(server) as callers:
        kept = journal.create(callers[0])
        verification = pb.VerifyRequest(secret_key=kept.secret_key)
        enough = len(journal.acknowledged(CREATE)) + len(callers)

        def write(caller: Caller) -> None:
            while not end.is_set():
                try:
                    journal.create(caller)
                except grpc.RpcError:
                    end.wait(0.02)

        with ThreadPoolExecutor(len(callers)) as pool:
            writing = [pool.submit(write, one) for one in callers]
            try:
                wait_until(lambda: len(journal.acknowledged(CREATE)) >= enough)
                worker = stop(server)
                with living(server, verification) as caller:
                    creation = create(journal, caller)
                    assert "OK" == answered(caller, verification, AT_ONCE)[0]
            finally:
                if worker:
                    os.kill(worker, signal.SIGCONT)
                end.set()
            assert [None] * len(writing) == [one.result() for one in writing]
        for caller in callers:  # of both workers
            wait_until(lambda one=caller: answered(one, verification, IN_TIME)[0] == "OK")  # type: ignore[misc]
            journal.create(caller)
        judge(journal, callers[0], store)
    assert "store_broken" not in server.log_text()
    return creation


def create(journal: Journal, caller: Caller) -> tuple[str, float]:
    """Make a key; return the status and the duration."""
    began = time.monotonic()
    try:
        journal.create(caller)
    except grpc.RpcError as error:
        return error.code().name, time.monotonic() - began
    return "OK", time.monotonic() - began


@contextmanager
def living(server: ServerProcess, request: Any) -> Iterator[Caller]:
    """Give a caller to a worker that runs: which of them a connection falls to is chance."""
    for _ in range(CONNECTIONS_TRIED):
        with connections(server, 1) as (caller,):
            code, _ = answered(caller, request, AT_ONCE)
            if code == "OK":
                yield caller
                return
            assert "DEADLINE_EXCEEDED" == code
    raise AssertionError("no worker answered")


@pytest.mark.case(27)
@pytest.mark.parametrize("engine", ["sqlite", "postgres"])
def test_worker_stopped_in_a_write_blocks_others_only_briefly(
    forks: ForkServer, order_path: Path, engine: str, ground: Ground, proof: Proof
) -> None:
    """SQLite refuses writers until it continues; PostgreSQL ends its session."""
    url = ground.url
    server = forks.start(ground.data, "--workers", "2", *ground.flags)

    def in_transaction() -> bool:
        return execute(url, _IN_TRANSACTION) == [(1,)]

    def stop(server: ServerProcess) -> int:
        return stop_when(server, in_transaction) if url else stop_by_order(server, order_path)

    try:
        with connections(server, 1) as (caller,):
            journal = Journal(new_project(caller))
        ended = [world(server, ground.store, journal, stop) for _ in range(ROUNDS)]
    finally:
        server.kill()
    codes, times = {code for code, _ in ended}, [took for _, took in ended]
    assert max(times) < IN_TIME
    assert ({"OK", "UNAVAILABLE"} if url else {"UNAVAILABLE"}) >= codes
    proof.done(
        f"{engine}: {ROUNDS} times; a creation meanwhile ended {' or '.join(sorted(codes))} "
        f"within {max(times):.1f} s; Verify went on; all healed"
    )


@pytest.mark.case(27)
def test_worker_stopped_outside_a_write_blocks_no_other(
    forks: ForkServer, tmp_path: Path, proof: Proof
) -> None:
    """Control: only a stopped write delays the others."""
    data, worker = tmp_path / "data", 0
    server = forks.start(data, "--workers", "2")
    try:
        with connections(server) as callers:
            journal = Journal(new_project(callers[0]))
            verification = pb.VerifyRequest(secret_key=journal.create(callers[0]).secret_key)
            worker = stop_when(server, lambda: nobody_writes(data / DATABASE))
            with living(server, verification) as caller:
                code, took = create(journal, caller)
        assert "OK" == code
    finally:
        if worker:
            os.kill(worker, signal.SIGCONT)
        server.kill()
    proof.control(f"stopped outside of a write: a creation is OK after {took:.2f} s")
