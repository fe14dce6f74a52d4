"""Alternatives to Key Authority, and empty servers for comparison.

Each runs on the servers' core, on this machine, without TLS, with the defaults of its
package; the request is the closest to "look up this key". Programs not installed are left out.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any, Final

import grpc

from benchmarks import databases
from benchmarks.cpp import build
from benchmarks.etcd import RANGE, VALUE, etcd, put_all, range_request
from benchmarks.h2load import CONNECTIONS, STREAMS, Load, LoadFailed, Target
from benchmarks.programs import free_address, running
from benchmarks.run import LeftOut, Measure, Run
from tests.postgres import binaries
from tests.service.processes import wait_until

CALLERS: Final = CONNECTIONS * STREAMS
KEY: Final = b"KA7Q2M9X4T8B3N6W5R1P"
EMPTY: Final = "/keyauthority.v1.KeyAuthorityService/Verify"
REQUEST: Final = b"x" * 80  # bytes of an empty call's request: a Verify's are as many
_CALL_SECONDS: Final = 30
_TRANSACTIONS: Final = re.compile(r"tps = ([0-9.]+) \(without")

Neighbour = Callable[[Run], AbstractContextManager[Measure]]


@contextmanager
def empty_python(run: Run, kind: str) -> Iterator[Target]:
    """Give a call of a server in Python that does nothing: `native`, `aio` or `threads`."""
    command = [*run.pinned(), sys.executable, "-m", "benchmarks.empty_server", kind]
    with running(command, ready=True) as address:
        yield Target(address, EMPTY, REQUEST, len(_call(address, EMPTY, REQUEST)))


@contextmanager
def _empty(kind: str, run: Run) -> Iterator[Measure]:
    with empty_python(run, kind) as target:
        yield Load(run, target)


@contextmanager
def cpp_server(run: Run) -> Iterator[Target]:
    """Give a call of the empty server in C++."""
    with running([*run.pinned(), str(build(run, "empty_server"))], ready=True) as address:
        yield Target(address, EMPTY, REQUEST, len(_call(address, EMPTY, REQUEST)))


@contextmanager
def empty_cpp(run: Run) -> Iterator[Measure]:
    """Measure gRPC's own C++ server with callbacks, doing nothing."""
    with cpp_server(run) as target:
        yield Load(run, target)


@contextmanager
def etcd_range(run: Run) -> Iterator[Measure]:
    """Measure etcd's serializable Range of one key: read from memory, no quorum asked."""
    with etcd(run) as address:
        put_all(address, [KEY.decode()])
        asked = range_request(KEY.decode())
        answer = _call(address, RANGE, asked)
        assert VALUE.encode() in answer
        yield Load(run, Target(address, RANGE, asked, len(answer)))


@contextmanager
def redis(run: Run) -> Iterator[Measure]:
    """Measure Redis' GET of one key, nothing of it on disk; a connection for each caller."""
    if shutil.which("redis-server") is None or shutil.which("redis-benchmark") is None:
        raise LeftOut("Redis is not installed (Debian: redis-server)")
    port = free_address().rpartition(":")[2]
    command = [*run.pinned(), "redis-server", "--port", port, "--bind", "127.0.0.1"]
    with running([*command, "--save", "", "--appendonly", "no", "--dir", str(run.folder)]):
        arguments = ["redis-benchmark", "-p", port, "-c", str(CALLERS), "--csv"]
        name, value = KEY.decode(), VALUE
        wait_until(partial(_succeeds, ["redis-cli", "-p", port, "SET", name, value], {}))
        rate = 20_000.0

        def measure() -> float:
            nonlocal rate
            calls = str(int(rate * run.seconds))
            table = _output([*run.pinned(run.load_core), *arguments, "-n", calls, "GET", name])
            rate = float(table.splitlines()[-1].rpartition('"GET')[2].split('","')[1])
            return rate

        yield measure


@contextmanager
def postgres(run: Run) -> Iterator[Measure]:
    """Measure PostgreSQL's SELECT of a row by its primary key: pgbench -S, prepared."""
    with databases.postgres(run) as cluster:
        pgbench = [str(binaries() / "pgbench"), "-h", str(cluster.folder), "-U", "postgres"]
        _output([*pgbench, "--initialize", "--quiet", "postgres"])
        arguments = ["-n", "-S", "-M", "prepared", "-c", str(CALLERS), "postgres"]
        rate = 5_000.0

        def measure() -> float:
            nonlocal rate
            each = max(int(rate * run.seconds / CALLERS), 1)
            output = _output([*run.pinned(run.load_core), *pgbench, "-t", str(each), *arguments])
            found = _TRANSACTIONS.search(output)
            if found is None:
                raise LoadFailed(output)
            rate = float(found[1])
            return rate

        yield measure


NEIGHBOURS: Final[dict[str, Neighbour]] = {
    "empty handler, native transport": partial(_empty, "native"),
    "empty handler, grpcio (asyncio)": partial(_empty, "aio"),
    "empty handler, grpcio (threads)": partial(_empty, "threads"),
    "empty handler, gRPC's C++ server": empty_cpp,
    "etcd, serializable Range": etcd_range,
    "PostgreSQL, SELECT by primary key": postgres,
    "Redis, GET": redis,
}


def enter(
    stack: ExitStack, run: Run, neighbours: Sequence[str], left_out: list[str]
) -> dict[str, Measure]:
    """Start neighbours, and return how each is measured; say which are left out, and why."""
    sides = {}
    for name in neighbours:
        try:
            sides[name] = stack.enter_context(NEIGHBOURS[name](run))
        except LeftOut as reason:
            left_out.append(f"{name}: {reason}")
    return sides


def _output(command: Sequence[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _succeeds(command: Sequence[str], settings: dict[str, str]) -> bool:
    environment = os.environ | settings
    done = subprocess.run(command, check=False, capture_output=True, env=environment)
    return done.returncode == 0


def _call(address: str, path: str, body: bytes) -> bytes:
    with grpc.insecure_channel(address) as channel:
        call: Any = channel.unary_unary(path)
        answer: bytes = call(body, timeout=_CALL_SECONDS, wait_for_ready=True)
        return answer
