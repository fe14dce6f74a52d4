"""Verify by the number of connections that the same calls come over."""

from __future__ import annotations

from typing import Final

from benchmarks.authority import serving
from benchmarks.figures import Part, quantile
from benchmarks.h2load import Load, require
from benchmarks.run import Run, take_turns

_CONNECTIONS: Final = (1, 4, 16, 64, 256, 1_000)
_CALLERS: Final = 64  # in all; with more connections, one on each
_TEXT: Final = f"""\
Calls a second of Verify of one question, repeated, native transport, SQLite, one core: {_CALLERS}
callers, or as many as there are connections. The times are a call's, in one more round, as h2load
has logged them."""


def measure(run: Run) -> Part:
    """Measure each number of connections in turn."""
    require()
    part = Part("Connections", _TEXT)
    with serving(run, "connections") as authority:
        target = authority.verify(authority.create())
        loads = {
            _name(number): Load(run, target, connections=number, streams=max(_CALLERS // number, 1))
            for number in _CONNECTIONS
        }
        rates = take_turns(loads, run.rounds)
        for name, load in loads.items():
            part.add("calls/s", {name: rates[name]})
            times = load.measure(timed=True).latencies
            for share in (0.5, 0.99):
                label = f"{name}, p{share * 100:.0f}"
                part.add("ms", {label: [quantile(times, share) * 1e3]})
    part.compare("1,000 connections to 4", _name(1_000), _name(4))
    return part


def _name(number: int) -> str:
    return f"{number:,} connection{'s' * (number > 1)}"
