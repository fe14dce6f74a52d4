"""Verify with one worker and with two, and the CPU share of the load generator."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Final

from benchmarks.authority import Authority, serving
from benchmarks.figures import Part
from benchmarks.h2load import Load, require
from benchmarks.run import Run, take_turns

_CONNECTIONS: Final = 32  # the kernel gives each to one of the workers: with few it is uneven
_WORKERS: Final = (1, 2)
_TEXT: Final = """\
Calls a second of Verify of one question, repeated, native transport, SQLite, 64 callers on 32
connections. One worker has one
core and h2load the other. Two workers have both cores, and h2load takes its share of them: so the
calls by each second that the server has worked are what tells how it scales. Memory is each
worker's resident size after the load."""


def measure(run: Run) -> Part:
    """Measure each number of workers in turn."""
    require()
    part = Part("Workers", _TEXT)
    both = (run.server_core, run.load_core)
    with ExitStack() as stack:
        sides = {}
        for number in _WORKERS:
            name = f"{number} worker{'s' * (number > 1)}"
            flags = ("--workers", str(number))
            served = serving(run, f"workers-{number}", *flags, cores=both[:number])
            sides[name] = _Side(run, stack.enter_context(served))
        for name, rates in take_turns(sides, run.rounds).items():
            side = sides[name]
            part.add("calls/s", {name: rates})
            part.add("calls by a second worked", {f"{name}, by its work": side.by_work[1:]})
            part.add("of a core", {f"{name}, h2load's share": side.shares[1:]})
            part.add("MB", {f"{name}, the largest": [max(side.authority.worker_memory())]})
    part.compare("two workers to one", "2 workers", "1 worker")
    part.compare("two to one, by their work", "2 workers, by its work", "1 worker, by its work")
    return part


class _Side:
    """A number of workers under load; both ends may use as many cores as the workers have."""

    def __init__(self, run: Run, authority: Authority) -> None:
        self._load = Load(
            run, authority.verify(authority.create()), connections=_CONNECTIONS, streams=2
        )
        self.authority = authority
        self._cores: tuple[int, ...] = (run.load_core,)
        if len(authority.server.worker_pids()) > 1:
            self._cores = (run.server_core, run.load_core)
        self.by_work: list[float] = []
        self.shares: list[float] = []

    def __call__(self) -> float:
        before = self.authority.cpu_seconds()
        loaded = self._load.measure(*self._cores)
        worked = max(self.authority.cpu_seconds() - before, 0.01)  # as fine as the kernel counts
        self.by_work.append(loaded.calls / worked)
        self.shares.append(loaded.core_share)
        return loaded.rate
