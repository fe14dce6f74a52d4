"""BatchVerify on one core, by the size of the batch."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from benchmarks.authority import ASKED, serving
from benchmarks.figures import Part
from benchmarks.h2load import Load, require
from benchmarks.run import Run, take_turns

SIZES: Final = (1, 10, 100, 1_000)
_CREATORS: Final = 16
STREAMS: Final = 2  # calls at once on each of h2load's 4 connections: each takes a while
_TEXT: Final = """\
Keys verified a second, native transport, SQLite, one core, 8 batches at once. All keys of a batch
are different; with facts, each is restricted, and asked for a permission and an address."""


def measure(run: Run) -> Part:
    """Measure each size in turn, of plain keys and of restricted ones."""
    require()
    part = Part("BatchVerify", _TEXT)
    with serving(run, "batch") as authority, ThreadPoolExecutor(_CREATORS) as pool:
        plain = list(pool.map(lambda _: authority.create(), range(SIZES[-1])))
        strict = list(pool.map(lambda _: authority.strict(), range(SIZES[-1])))
        sides = {}
        for size in SIZES:
            sides[f"{size:,} a batch"] = _keys(
                Load(run, authority.verify_batch(plain[:size]), streams=STREAMS), size
            )
        for size in SIZES[2:]:
            sides[f"{size:,} a batch, with facts"] = _keys(
                Load(run, authority.verify_batch(strict[:size], **ASKED), streams=STREAMS), size
            )
        part.add("keys/s", take_turns(sides, run.rounds))
    part.compare("100 a batch to 1", "100 a batch", "1 a batch")
    return part


def _keys(load: Load, size: int) -> Callable[[], float]:
    return lambda: load() * size
