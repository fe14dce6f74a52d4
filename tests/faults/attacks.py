"""Attacks on a worker that does not collect garbage, and the honest callers beside them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from tests.service.callers import Caller, verdict
from tests.service.processes import ServerProcess

MIB: Final = 1 << 20
_TICKS: Final = os.sysconf("SC_CLK_TCK")


class Cost(NamedTuple):
    """The cost of a block to the workers and to concurrent callers."""

    seconds: float
    """Time of the processor, in the threads that have the event loops."""
    memory: int
    """Bytes that the workers hold more than before."""
    waits: list[float]
    """Seconds that each honest call took, sorted."""

    @property
    def worst(self) -> float:
        """The longest wait of an honest call."""
        return self.waits[-1]

    @property
    def p99(self) -> float:
        """The 99th percentile of the waits."""
        return self.waits[len(self.waits) * 99 // 100]


class Meter:
    """Measures its block; read `cost` after it."""

    cost: Cost


@contextmanager
def metered(server: ServerProcess, honest: Caller, secret_key: str) -> Iterator[Meter]:
    """Call Verify over and over beside the block; each must be answered VALID."""
    meter, stop = Meter(), threading.Event()
    waits: list[float] = []
    faults: list[BaseException] = []

    def call() -> None:
        try:
            while not stop.is_set() or not waits:
                began = time.monotonic()
                assert "VALID" == verdict(honest, secret_key)
                waits.append(time.monotonic() - began)
                stop.wait(0.005)
        except BaseException as fault:  # noqa: BLE001 - raised in the test's own thread
            faults.append(fault)

    thread = threading.Thread(target=call)
    used, held = loop_seconds(server), resident(server)
    thread.start()
    try:
        yield meter
    finally:
        stop.set()
        thread.join()
    if faults:
        raise faults[0]
    meter.cost = Cost(loop_seconds(server) - used, resident(server) - held, sorted(waits))


def loop_seconds(server: ServerProcess) -> float:
    """Time of the processor that the workers' first threads have used."""
    return sum(_seconds(f"/proc/{pid}/task/{pid}/stat") for pid in server.worker_pids())


def _seconds(path: str) -> float:
    fields = Path(path).read_text(encoding="utf-8").rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def resident(server: ServerProcess) -> int:
    """Bytes that the workers hold."""
    pages = 0
    for pid in server.worker_pids():
        pages += int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
