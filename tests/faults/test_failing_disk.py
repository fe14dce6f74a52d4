"""Failed writes and syncs below SQLite: no false acknowledgement, none after a failed sync.

PostgreSQL's disk is PostgreSQL's to look after: a sync that fails ends it, which is a restart to
us, and `test_failover.py` shows that.
"""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Final

import grpc
import pytest

from keyauthority import Client
from tests.faults.bitflips import environment
from tests.faults.disk.failing import (
    FULL,
    IOERR_FSYNC,
    IOERR_TRUNCATE,
    IOERR_WRITE,
    Order,
    met,
    ordered,
)
from tests.faults.oracle import CREATE, REVOKE, Journal, SqliteStore, judge, write_half
from tests.proofs import PROVE, Proof
from tests.service.callers import Caller, new_project, verdict
from tests.service.forkserver import ForkServer, forkserver
from tests.service.metrics import scrape, value
from tests.service.processes import ServerProcess, wait_until

pytestmark = pytest.mark.xdist_group("forkserver")  # one for all

DATABASE: Final = "keyauthority.db"
FAULTS: Final = {
    "sync-eio": Order("sync", IOERR_FSYNC),
    "write-eio": Order("write", IOERR_WRITE),
    "write-short": Order("write", IOERR_WRITE, short=True),
    "write-enospc": Order("write", FULL, short=True),
    "checkpoint-eio": Order("write", IOERR_WRITE, file=DATABASE),
    "checkpoint-sync-eio": Order("sync", IOERR_FSYNC, file=DATABASE),
    "checkpoint-truncate-eio": Order("truncate", IOERR_TRUNCATE, file=DATABASE),
}
SHORT: Final = ("sync-eio", "write-enospc")
ENDS: Final = frozenset({"sync-eio", "write-eio", "write-short"})
"""Failures that end a process: the content of the write-ahead log is unknown."""
ROUNDS: Final = max(1, PROVE)
CONNECTIONS: Final = 8  # so that each of two workers has some, but with a chance of 1 in 128
WRITES: Final = 15  # acknowledged before the fault, and refused in it
REFUSALS: Final = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED})


@contextmanager
def connections(server: ServerProcess, count: int = CONNECTIONS) -> Iterator[list[Caller]]:
    """Give callers over a connection each, which fall to the workers at random."""
    with ExitStack() as stack:
        options = (("grpc.use_local_subchannel_pool", 1),)
        yield [
            Caller(stack.enter_context(grpc.insecure_channel(server.address, options)), metadata)
            for metadata in [server.metadata] * count
        ]


def acknowledged(callers: list[Caller], journal: Journal) -> int:
    """Try to make a key over each connection; return how many were acknowledged."""
    count, refused = 0, set()
    for caller in callers:
        try:
            journal.create(caller)
        except grpc.RpcError as error:
            refused.add(error.code())
        else:
            count += 1
    assert refused <= REFUSALS
    return count


def refusals(journal: Journal) -> int:
    """How many creations and revocations were refused."""
    lines = journal.unknown(CREATE) + journal.unknown(REVOKE)
    return sum(one.status in REFUSALS for one in lines)


def fail_under_load(
    callers: list[Caller], journal: Journal, order: Order, path: Path
) -> tuple[int, int]:
    """Let the disk fail while clients write; return the calls refused, and those served after.

    Verify goes on all the time.
    """
    stop = threading.Event()
    with ThreadPoolExecutor(len(callers)) as pool:
        clients = [pool.submit(write_half, one, journal, stop) for one in callers]
        try:
            wait_until(lambda: len(journal.acknowledged(CREATE)) >= WRITES)
            kept = journal.acknowledged(CREATE)[0]
            with ordered(path, order):
                wait_until(met(path).exists, 60)
                before = refusals(journal)
                if order.file != DATABASE:  # a failed checkpoint concerns no caller
                    wait_until(lambda: refusals(journal) >= before + WRITES)
                assert verdict(callers[0], kept.secret_key) in ("VALID", "REVOKED")
        finally:
            stop.set()
        assert [None] * len(clients) == [one.result() for one in clients]
    return refusals(journal), acknowledged(callers, journal)


def world(forks: ForkServer, data: Path, fault: str, order_path: Path) -> tuple[int, int]:
    """Serve, let the disk fail, kill everything, start again, and judge."""
    server = forks.start(data, "--workers", "2")
    try:
        with connections(server) as callers:
            journal = Journal(new_project(callers[0]))
            found = fail_under_load(callers, journal, FAULTS[fault], order_path)
        server.kill()
        server = forks.start(data, "--workers", "2")
        with connections(server) as callers:
            judge(journal, callers[0], SqliteStore(data))
            assert CONNECTIONS == acknowledged(callers, journal)
    finally:
        server.kill()
    return found


@pytest.mark.case(20)
@pytest.mark.parametrize("fault", FAULTS if PROVE else SHORT)
def test_failing_disk_causes_no_false_acknowledgement(
    forks: ForkServer, order_path: Path, tmp_path: Path, fault: str, proof: Proof
) -> None:
    """Failed writes are refused; a process with a failed sync acknowledges nothing more."""
    refused = 0
    for number in range(ROUNDS):
        failed, served = world(forks, tmp_path / f"data-{number}", fault, order_path)
        refused += failed
        assert (0 if fault in ENDS else CONNECTIONS) == served
        assert failed or FAULTS[fault].file == DATABASE
    proof.done(f"{fault}: {ROUNDS} times, {refused} changes refused, none acknowledged falsely")


def test_server_that_cannot_change_says_so_and_goes_on_to_verify(
    forks: ForkServer, order_path: Path, tmp_path: Path
) -> None:
    """After a failed sync: in its health, in a metric, on the command line and in the log."""
    health = (sys.executable, "-m", "keyauthority.cli", "health")
    server = forks.start(tmp_path / "data", "--metrics", "127.0.0.1:0", "--http", "127.0.0.1:0")

    def status(query: str) -> int:
        host, _, port = server.http.rpartition(":")
        with closing(HTTPConnection(host, int(port))) as connection:
            connection.request("GET", f"/healthz{query}")
            return connection.getresponse().status

    try:
        with connections(server, 1) as (caller,), Client(server.address) as client:
            journal = Journal(new_project(caller))
            kept = journal.create(caller)
            assert client.check_health(changes=True)
            assert 200 == status("?service=keyauthority.changes")
            wait_until(lambda: value(scrape(server), "keyauthority_changes_accepted") == 1)
            with ordered(order_path, FAULTS["sync-eio"]):
                assert 0 == acknowledged([caller], journal)
            wait_until(lambda: not client.check_health(changes=True))
            assert client.check_health()
            assert (503, 200) == (status("?service=keyauthority.changes"), status(""))
            assert "VALID" == verdict(caller, kept.secret_key)
            wait_until(lambda: value(scrape(server), "keyauthority_changes_accepted") == 0)
            for flags, code in ((), 0), (("--changes",), 3):
                asked = subprocess.run([*health, "--address", server.address, *flags], check=False)
                assert code == asked.returncode
        log = server.log_text()
        assert "critical store_broken" in log
        assert re.search("warning health changes=False .*serving=True", log)
    finally:
        server.kill()
    again = forks.start(tmp_path / "data")
    try:
        with Client(again.address) as client:
            assert client.check_health(changes=True)
    finally:
        again.kill()


@pytest.mark.case(20)
def test_process_that_continues_after_a_failed_sync_is_caught(
    order_path: Path, tmp_path: Path, proof: Proof
) -> None:
    """Control: without the rule the process acknowledges lost writes."""
    with forkserver(environment(failing=order_path, forgiving="1")) as forgiving:
        _, served = world(forgiving, tmp_path / "data", "sync-eio", order_path)
    assert served
    proof.control(f"a process that forgives acknowledged {served} of {CONNECTIONS} after it")
