"""Several servers on one PostgreSQL: the delay of a revocation, and the cost of a first read.

The database is that of the tests, whose commits do not wait for a disk.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Final

from benchmarks.authority import Authority, serving
from benchmarks.databases import postgres
from benchmarks.figures import Part, quantile
from benchmarks.h2load import Load, require
from benchmarks.run import Run
from keyauthority import CreatedKey

BOUND_SECONDS: Final = 1.0  # --max-staleness
_CREATORS: Final = 8
_SERVERS: Final = 3
_FIRST_LOOKS: Final = 500  # keys that are verified for the first time
_TEXT: Final = f"""\
{_SERVERS} servers share a database. Keys are revoked over one of them, one after the other, while
the others verify as fast as they can; the time is from RevokeKey's answer to when the last of the
others refuses. A first look is Verify of a key that a server's memory does not have, from a client
in Python; the second look is the same, when it has."""


def measure(run: Run) -> Part:
    """Measure freshness on PostgreSQL, then first and second looks on both engines."""
    require()
    part = Part("Several servers on PostgreSQL", _TEXT)
    with ExitStack() as stack:
        url = stack.enter_context(postgres(run)).create()
        first = stack.enter_context(serving(run, "fresh-0", "--store", url))
        others = [
            stack.enter_context(serving(run, f"fresh-{n}", "--store", url, beside=first))
            for n in range(1, _SERVERS)
        ]
        with ThreadPoolExecutor(_CREATORS) as pool:
            made = list(pool.map(lambda _: first.create(), range(run.cases + 1)))
            for other in others:
                list(pool.map(lambda one, to=other: to.client.verify(one.secret_key), made))
            with _loaded(run, others, made.pop()) as rates:
                took = [_until_refused(first, others, one, pool) for one in made]
        for share, word in ((0.5, "p50"), (0.99, "p99"), (1, "worst")):
            part.add("ms", {f"until the last refuses, {word}": [quantile(took, share) * 1e3]})
        beyond = sum(seconds > BOUND_SECONDS for seconds in took)
        part.add("of the revocations", {f"beyond {BOUND_SECONDS:.0f} s": [beyond]})
        shares = [quantile(rates, share) for share in (0, 0.25, 0.5, 0.75, 1)]
        part.add("calls/s", {"verifications meanwhile, by each of the others": shares})
        sqlite = stack.enter_context(serving(run, "fresh-sqlite"))
        for engine, authority in (("PostgreSQL", first), ("SQLite", sqlite)):
            for look, times in zip(("first", "second"), _looks(authority), strict=True):
                label = f"{look} look of a server on {engine}, p50"
                part.add("ms", {label: [quantile(times, 0.5) * 1e3]})
    return part


def _until_refused(
    first: Authority, others: Sequence[Authority], one: CreatedKey, pool: ThreadPoolExecutor
) -> float:
    first.client.revoke_key(one.key.access_key)
    answered = time.monotonic()

    def refused(other: Authority) -> float:
        while True:
            begun = time.monotonic()
            if not other.client.verify(one.secret_key).valid:
                return begun

    return max(*pool.map(refused, others), answered) - answered


@contextmanager
def _loaded(run: Run, sides: Sequence[Authority], created: CreatedKey) -> Iterator[list[float]]:
    """Verify a key at each of the servers, as fast as they can, while the context lasts."""
    rates: list[float] = []
    ended = threading.Event()

    def verify(load: Load) -> None:
        while not ended.is_set():
            rates.append(load())

    loads = [Load(run, side.verify(created)) for side in sides]
    threads = [threading.Thread(target=verify, args=(load,)) for load in loads]
    for thread in threads:
        thread.start()
    try:
        yield rates
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def _looks(authority: Authority) -> list[list[float]]:
    """Return the seconds of each first look, and of each second."""
    with ThreadPoolExecutor(_CREATORS) as pool:
        made = list(pool.map(lambda _: authority.create(), range(_FIRST_LOOKS)))
    looks: list[list[float]] = [[], []]
    for times in looks:
        for one in made:
            begun = time.perf_counter()
            authority.client.verify(one.secret_key)
            times.append(time.perf_counter() - begun)
    return looks
