"""How one run measures: how long, how often, on which cores, and who has his turn when."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

Measure = Callable[[], float]
"""Measures one side for the time of a round."""


class LeftOut(Exception):
    """Something cannot be measured on this machine; the message says why, on one line."""


@dataclass(frozen=True)
class Run:
    """What all parts are told."""

    folder: Path
    """Where servers keep what they write: figures of durable writes are those of its disk."""
    stores: Path
    """Where stores full of keys are kept for the next run."""
    rounds: int
    seconds: float
    """How long a side is measured in each round."""
    keys: tuple[int, ...]
    """How many keys the stores have that are compared."""
    cases: int
    """Changes and revocations whose way is timed one by one."""
    watchers: tuple[int, ...]

    @property
    def server_core(self) -> int:
        """The core of whatever is measured."""
        return min(os.sched_getaffinity(os.getppid()))

    @property
    def load_core(self) -> int:
        """The core of whatever makes the load: another, where there is another."""
        return max(os.sched_getaffinity(os.getppid()))

    def pinned(self, *cores: int) -> tuple[str, ...]:
        """Return what to put before a command so that it runs on these cores only."""
        return ("taskset", "-c", ",".join(map(str, cores or (self.server_core,))))


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """Run this thread, and what it starts, on one core while the context lasts."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def take_turns(sides: Mapping[str, Measure], rounds: int) -> dict[str, list[float]]:
    """Measure all sides in each round, after a turn that only warms them up.

    Every other round goes backwards: what gets slower or faster meanwhile favours nobody.
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
    """Return how often a second a step is taken."""
    begun = time.perf_counter()
    steps = 0
    while (taken := time.perf_counter() - begun) < seconds:
        step()
        steps += 1
    return steps / taken
