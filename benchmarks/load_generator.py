"""`load_generator.cc` makes calls that each have another request; every answer is checked.

It is a C++ client on one core. h2load takes less of its core but repeats one request, which a
server that remembers its last answers would only repeat.
"""

from __future__ import annotations

import json
import resource
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.cpp import build
from benchmarks.h2load import LoadFailed
from benchmarks.run import Run

CHANNELS: Final = 4  # connections
CALLS: Final = 16  # at once on each


class Bodies(NamedTuple):
    """A file of requests."""

    path: Path
    number: int


@dataclass(frozen=True)
class Traffic:
    """Calls of one method, and the expected response of each."""

    address: str
    path: str
    bodies: Bodies
    prefix: bytes = b""
    suffix: bytes = b""
    items: int = 0
    """Items of a batch: each begins with `prefix`, instead of the whole."""
    metadata: str = ""
    """`name=value`."""
    ca: Path | None = None
    """The certificate of the server's issuer; plaintext without."""
    calls: int = CALLS
    """Calls at once on each connection."""


class Loaded(NamedTuple):
    """The outcome of one round."""

    calls: int
    rate: float
    """Calls a second."""
    p50: float
    """Milliseconds."""
    p99: float
    core_share: float
    """The share of a core that the generator itself took."""


class TrafficLoad:
    """A load of one kind of traffic; each round goes on where the last has ended."""

    def __init__(self, run: Run, traffic: Traffic, seconds: float) -> None:
        """Compile the generator if it is not; raises LeftOut if it cannot be."""
        self._run = run
        self._program = build(run, "load_generator")
        self._traffic = traffic
        self._seconds = seconds
        self._skip = 0
        self.rounds: list[Loaded] = []

    def __call__(self) -> float:
        """Return the calls a second of one round; raises LoadFailed if an answer is not right."""
        before, begun = _children_seconds(), time.perf_counter()
        done = subprocess.run(self._command(), check=False, capture_output=True, text=True)
        share = (_children_seconds() - before) / (time.perf_counter() - begun)
        if done.returncode != 0:
            raise LoadFailed(done.stderr)
        loaded = loaded_of(done.stdout, share)
        self._skip = (self._skip + loaded.calls) % self._traffic.bodies.number
        self.rounds.append(loaded)
        return loaded.rate

    def _command(self) -> list[str]:
        traffic = self._traffic
        options = {
            "--skip": str(self._skip),
            "--channels": str(CHANNELS),
            "--calls": str(traffic.calls),
            "--ca": str(traffic.ca or ""),
            "--metadata": traffic.metadata,
            "--prefix": traffic.prefix.hex(),
            "--suffix": traffic.suffix.hex(),
            "--items": str(traffic.items),
        }
        needed = (traffic.address, traffic.path, str(traffic.bodies.path), str(self._seconds))
        arguments = (text for option in options.items() for text in option)
        return [*self._run.pinned(self._run.load_core), str(self._program), *needed, *arguments]


def write_bodies(path: Path, bodies: Iterable[bytes]) -> Bodies:
    """Write a file of requests, each behind its length."""
    number = 0
    with path.open("wb") as file:
        for body in bodies:
            file.write(len(body).to_bytes(4, "little") + body)
            number += 1
    return Bodies(path, number)


def loaded_of(output: str, core_share: float) -> Loaded:
    """Return the generator's figures; raises LoadFailed unless every answer was right."""
    result = json.loads(output)
    if not result["calls"] or result["errors"] or result["wrong"]:
        counted = f"{result['errors']} of {result['calls']} calls failed"
        raise LoadFailed(f"{counted} and {result['wrong']} had another answer: {result['told']}")
    calls, to_ms = result["calls"], 1e-3
    rate = calls / result["seconds"]
    return Loaded(calls, rate, result["p50"] * to_ms, result["p99"] * to_ms, core_share)


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
