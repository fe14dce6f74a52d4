"""How long a revocation takes to reach all servers of one PostgreSQL, and what memory is worth.

Run by `make bench-staleness`. It needs h2load (Debian: nghttp2-client), and the PostgreSQL of the
tests, whose commits do not wait for a disk. Three servers share a database. Keys are revoked over
one of them, one after the other, while the others are loaded with verifications as fast as they
can; each revocation is asked for at both until they refuse the key. Then Verify's rate with one key
in memory, beside SQLite's, and with keys that each are verified for the first time.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import keyauthority
from benchmarks.verify import body_of, load
from tests.postgres import running_cluster
from tests.service.processes import ServerProcess, start

BOUND: Final = 1.0  # seconds: --max-staleness
CREATORS: Final = 8
LOADED_CALLS: Final = 2_000  # of h2load at once, again and again
COLD: Final = 2_000  # keys that are verified for the first time
SHARED: Final = ("pepper", "audit.key", "operator.key")


class Side(NamedTuple):
    """A server, and a client of it."""

    server: ServerProcess
    client: keyauthority.Client
    operator_key: str


def main() -> None:
    """Measure both, and print the figures."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--keys", type=int, default=1_000, help="revocations")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--calls", type=int, default=20_000, help="calls a round")
    given = options.parse_args()
    if shutil.which("h2load") is None:
        sys.exit("h2load is not installed: on Debian it is in the package nghttp2-client")
    print(f"load of this machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cluster = stack.enter_context(running_cluster())
        sides = [
            _side(stack, folder, f"postgres-{number}", "--store", url)
            for url in (cluster.create(),)
            for number in range(3)
        ]
        _revoke(sides, given.keys, folder)
        for side in sides[1:]:
            side.server.stop()
        sqlite = _side(stack, folder, "sqlite")
        _rates(sqlite, sides[0], given.rounds, given.calls, folder)


def _side(stack: ExitStack, folder: Path, name: str, *flags: str) -> Side:
    data, first = folder / name, folder / "postgres-0"
    if flags and first.exists():
        data.mkdir(mode=0o700)
        for shared in SHARED:
            shutil.copy2(first / shared, data)
    server = start(data, *flags, "--log-level", "error")
    stack.callback(lambda: server.process.poll() is None and server.stop())
    operator_key = server.operator_key
    client = keyauthority.Client(server.address, operator_key=operator_key)
    return Side(server, stack.enter_context(client), operator_key)


def _revoke(sides: Sequence[Side], count: int, folder: Path) -> None:
    """Revoke over the first; measure when the last of the others refuses."""
    first, *others = sides
    project = first.client.create_project("bench").project_id
    with ThreadPoolExecutor(CREATORS) as pool:
        made = list(
            pool.map(
                lambda _: first.client.create_key(project, mode="live", kind="secret"), range(count)
            )
        )
        for side in others:
            list(pool.map(lambda one, to=side: to.client.verify(one.secret_key), made))
        with _loaded(others, made[-1], folder) as rates:
            took = [_seconds(first, others, one, pool) for one in made[:-1]]
    took.sort()
    beyond = sum(seconds > BOUND for seconds in took)
    print(
        f"revocations: {len(took):,}; verifications meanwhile: {statistics.mean(rates):,.0f}/s each"
    )
    print(f"until the last server refuses: {_quantiles(took)}")
    print(f"beyond {BOUND:.0f} s: {beyond}")


def _seconds(
    first: Side, others: Sequence[Side], one: keyauthority.CreatedKey, pool: ThreadPoolExecutor
) -> float:
    first.client.revoke_key(one.key.access_key)
    answered = time.monotonic()

    def refused(side: Side) -> float:
        while True:
            started = time.monotonic()
            if not side.client.verify(one.secret_key).valid:
                return started

    return max(*pool.map(refused, others), answered) - answered


@contextmanager
def _loaded(
    sides: Sequence[Side], created: keyauthority.CreatedKey, folder: Path
) -> Iterator[list[float]]:
    """Verify a key at each of the servers, as fast as they can, while the context lasts."""
    rates: list[float] = []
    ended = threading.Event()

    def verify(place: int, side: Side) -> None:
        mine = folder / f"load-{place}"
        mine.mkdir()
        body = body_of(created)
        while not ended.is_set():
            rates.append(load(side.server.address, side.operator_key, body, LOADED_CALLS, mine))

    threads = [threading.Thread(target=verify, args=pair) for pair in enumerate(sides)]
    for thread in threads:
        thread.start()
    try:
        yield rates
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def _rates(sqlite: Side, postgres: Side, rounds: int, calls: int, folder: Path) -> None:
    """Measure Verify on both engines in turn, then with keys that memory does not have."""
    rates: dict[str, list[float]] = {"SQLite": [], "PostgreSQL, in memory": []}
    sides = list(zip(rates, (sqlite, postgres), strict=True))
    bodies = {}
    for name, side in sides:
        project = side.client.create_project("bench").project_id
        bodies[name] = body_of(side.client.create_key(project, mode="live", kind="secret"))
    for _ in range(rounds):
        for name, side in sides:
            rates[name].append(
                load(side.server.address, side.operator_key, bodies[name], calls, folder)
            )
    medians = {name: statistics.median(measured) for name, measured in rates.items()}
    for name, median in medians.items():
        print(f"Verify, {name}: {median:,.0f}/s, {median / medians['SQLite']:.2f} of SQLite's")
    for name, side in (("SQLite", sqlite), ("PostgreSQL", postgres)):
        print(f"Verify, {name}, one by one, {_cold(side)}")


def _cold(side: Side) -> str:
    """Return how long a first Verify takes from a client in Python, and a second."""
    project = side.client.create_project("cold").project_id
    with ThreadPoolExecutor(CREATORS) as pool:
        made = list(
            pool.map(
                lambda _: side.client.create_key(project, mode="live", kind="secret"), range(COLD)
            )
        )
    times: list[list[float]] = [[], []]
    for measured in times:
        for one in made:
            started = time.perf_counter()
            side.client.verify(one.secret_key)
            measured.append(time.perf_counter() - started)
    first, second = (_quantiles(sorted(measured)) for measured in times)
    return f"first: {first}; again: {second}"


def _quantiles(ordered: Sequence[float]) -> str:
    def at(share: float) -> float:
        return ordered[min(int(len(ordered) * share), len(ordered) - 1)] * 1e3

    return f"p50 {at(0.5):.1f} ms, p99 {at(0.99):.1f} ms, worst {at(1):.1f} ms"


if __name__ == "__main__":
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    main()
