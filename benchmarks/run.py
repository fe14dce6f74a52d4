"""Settings of one run: durations, rounds, cores, and the order of measurements."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

Measure = Callable[[], float]
"""Measures one side for one round."""


class LeftOut(Exception):
    """A measurement is impossible on this machine; the message is one line."""


@dataclass(frozen=True)
class Run:
    """Settings shared by all parts."""

    folder: Path
    """Folder for server data; its disk determines the figures of durable writes."""
    stores: Path
    """Folder of filled stores, kept for the next run."""
    rounds: int
    seconds: float
    """Duration of one measurement, per side and round."""
    keys: tuple[int, ...]
    """Numbers of keys in the stores to compare."""
    cases: int
    """Number of changes and revocations timed individually."""
    watchers: tuple[int, ...]
    megabytes: int = 1_000
    """Size of the tree to scan."""
    commits: int = 10_000
    """Length of the history to scan."""

    @property
    def server_core(self) -> int:
        """The core of the measured process."""
        return min(os.sched_getaffinity(os.getppid()))

    @property
    def load_core(self) -> int:
        """The core of the load generator: a different one, if the machine has several."""
        return max(os.sched_getaffinity(os.getppid()))

    def pinned(self, *cores: int) -> tuple[str, ...]:
        """Return the command prefix that confines a process to these cores."""
        return ("taskset", "-c", ",".join(map(str, cores or (self.server_core,))))


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """Run this thread and its children on one core until the context ends."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def take_turns(sides: Mapping[str, Measure], rounds: int) -> dict[str, list[float]]:
    """Measure all sides in each round, after a warm-up that is not counted.

    Every second round runs in reverse order, so that drift of the machine favours no side.
    """
    for measure in sides.values():
        measure()
    measured: dict[str, list[float]] = {name: [] for name in sides}
    names: Sequence[str] = list(sides)
    for _ in range(rounds):
        for name in names:
            measured[name].append(sides[name]())
        names = names[::-1]
    return measured


def steps_a_second(step: Callable[[], object], seconds: float) -> float:
    """Return the rate of a step, per second."""
    begun = time.perf_counter()
    steps = 0
    while (taken := time.perf_counter() - begun) < seconds:
        step()
        steps += 1
    return steps / taken
