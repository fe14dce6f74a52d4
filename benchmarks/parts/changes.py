"""Changes of keys, each durable before it is answered, beside the bare disk's commits.

On a disk that syncs fast the processor takes most of the time. So CreateKey is measured once more
with syncs that take 2 ms longer, as those of a usual disk do.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks import calls
from benchmarks.authority import SERVICE, Authority, serving
from benchmarks.databases import bare_postgres, bare_sqlite, bare_sync, postgres
from benchmarks.figures import Part
from benchmarks.h2load import Load, Loaded, require
from benchmarks.neighbours import empty_python
from benchmarks.run import LeftOut, Measure, Run, take_turns
from keyauthority.v1 import key_authority_service_pb2 as pb
from keyauthority.v1 import key_pb2

MANY: Final = 32
EACH: Final = {  # method and callers: keys that they change in each round
    ("RevokeKey", 1): 50,
    ("RevokeKey", MANY): 300,
    ("RotateKey", MANY): 300,
}
_MANY: Final = f", {MANY} callers"
_CREATORS: Final = 32
_LONGER: Final = 0.002  # seconds, as slow_sync.c has it
_SLOW: Final = "syncs 2 ms longer"
_SLOW_SYNC: Final = Path(__file__).parents[1] / "slow_sync.c"
_SYNC: Final = "bare sync of 4 KiB"
_COMMIT: Final = "bare commit, SQLite, synchronous=FULL"
_EMPTY: Final = "empty call, native transport"
_SUM: Final = "bare commit of SQLite and empty call, together"
_TEXT: Final = f"""\
How often a second, one after the other by one caller or by {MANY} callers at once; the servers,
their databases and the bare commits on one core, callers on another, all on the same disk.
CreateKey's callers are h2load. Those of RevokeKey and RotateKey are a client in Python, which takes
a part of the time for itself: compare them with its empty call. Processor time is the server's own
by key, without that of a PostgreSQL, as exact as the kernel counts (10 ms a round). PostgreSQL has
fsync and synchronous_commit on. With {_SLOW} each of a server's syncs sleeps that long first, and
so does the bare commit."""


def measure(run: Run) -> Part:
    """Measure bare syncs and commits, and changes on both engines, in turn."""
    require()
    part = Part("Changes, durable", _TEXT)
    with ExitStack() as stack:
        cluster = stack.enter_context(postgres(run, durable=True))
        sides: dict[str, Measure] = {
            _SYNC: bare_sync(run),
            _COMMIT: bare_sqlite(run, stack),
            f"{_COMMIT}, {_SLOW}": bare_sqlite(run, stack, _LONGER),
            "bare commit, PostgreSQL": bare_postgres(run, cluster, stack),
        }
        empty = stack.enter_context(empty_python(run, "native"))
        sides[_EMPTY] = Load(run, empty, connections=1, streams=1)
        for engine, flags in (("SQLite", ()), ("PostgreSQL", ("--store", cluster.create()))):
            served = serving(run, f"changes-{engine}", *flags)
            authority = stack.enter_context(served)
            sides |= _created(run, engine, authority)
            sides |= _changed(run, engine, authority)
        try:
            served = serving(run, "changes-slow", before=_slowed(run))
            sides |= _created(run, f"SQLite, {_SLOW}", stack.enter_context(served))
        except LeftOut as reason:
            part.left_out.append(f"{_SLOW}: {reason}")
        sides["empty call of RevokeKey's client"] = _called(run, empty.address, empty.path)
        rates = take_turns(sides, run.rounds)
        worked = {name: side.by_key for name, side in sides.items() if isinstance(side, _Worked)}
    for slow in ("", f", {_SLOW}"):
        both = zip(rates[_COMMIT + slow], rates[_EMPTY], strict=True)
        rates[_SUM + slow] = [1 / (1 / commit + 1 / call) for commit, call in both]
    part.add("/s", rates)
    many_keys = {name: times for name, times in worked.items() if name.endswith(_MANY)}
    part.add("µs", {f"{name}: processor time": times[1:] for name, times in many_keys.items()})
    one, many = "CreateKey, {}, 1 caller", f"CreateKey, {{}}, {MANY} callers"
    for slow in ("", f", {_SLOW}"):
        name = f"time of CreateKey to a bare commit and an empty call{slow}"
        part.compare(name, _SUM + slow, one.format(f"SQLite{slow}"), "≤ 1.5")
    for disk, aim in (("SQLite", "≥ 4"), (f"SQLite, {_SLOW}", "≥ 4"), ("PostgreSQL", "")):
        part.compare(f"{MANY} callers to one, {disk}", many.format(disk), one.format(disk), aim)
    return part


def _slowed(run: Run) -> tuple[str, ...]:
    """Return a command prefix that slows the syncs of a server."""
    compiler = shutil.which("gcc")
    if compiler is None:
        raise LeftOut("gcc is not installed (Debian: gcc)")
    library = run.folder / "slow_sync.so"
    subprocess.run([compiler, "-shared", "-fPIC", _SLOW_SYNC, "-o", library, "-ldl"], check=True)
    return "env", f"LD_PRELOAD={library}"


def _created(run: Run, engine: str, authority: Authority) -> dict[str, Measure]:
    request = pb.CreateKeyRequest(
        project_id=authority.project_id,
        mode=key_pb2.KEY_MODE_LIVE,
        kind=key_pb2.KEY_KIND_SECRET,
        purpose="nightly export",
    )
    target = authority.target("CreateKey", request)
    sides: dict[str, Measure] = {}
    for callers, connections in ((1, 1), (MANY, 4)):
        load = Load(run, target, connections=connections, streams=callers // connections)
        sides[_name("CreateKey", engine, callers)] = _Worked(authority, load.measure)
    return sides


def _changed(run: Run, engine: str, authority: Authority) -> dict[str, Measure]:
    """Return how changes are measured of keys that are there, each changed once."""
    turns = run.rounds + 1  # and one to warm up
    with ThreadPoolExecutor(_CREATORS) as pool:
        made = pool.map(lambda _: authority.create(), range(turns * sum(EACH.values())))
        names = iter([one.key.access_key for one in made])
    return {
        _name(method, engine, callers): _Worked(
            authority, partial(_change, run, authority, method, names, callers)
        )
        for method, callers in EACH
    }


def _change(
    run: Run, authority: Authority, method: str, names: Iterator[str], callers: int
) -> _Changed:
    """Change as many keys as a round has."""
    request = getattr(pb, f"{method}Request")
    bodies = [
        request(access_key=next(names)).SerializeToString() for _ in range(EACH[method, callers])
    ]
    address, operator_key = authority.server.address, authority.server.operator_key
    rate = calls.rate(run, address, f"{SERVICE}/{method}", bodies, operator_key, callers)
    return _Changed(len(bodies), rate)


class _Changed(NamedTuple):
    calls: int
    rate: float


class _Worked:
    """Measures the rate of changes, and the microseconds that the server works for each."""

    def __init__(self, authority: Authority, measure: Callable[[], _Changed | Loaded]) -> None:
        self._authority = authority
        self._measure = measure
        self.by_key: list[float] = []

    def __call__(self) -> float:
        before = self._authority.cpu_seconds()
        changed = self._measure()
        worked = self._authority.cpu_seconds() - before
        self.by_key.append(worked / changed.calls * 1e6)
        return changed.rate


def _name(method: str, engine: str, callers: int) -> str:
    return f"{method}, {engine}, {callers} caller{'s' * (callers > 1)}"


def _called(run: Run, address: str, path: str) -> Measure:
    bodies = [b"x" * 80] * 1_000
    return lambda: calls.rate(run, address, path, bodies, "none", 1)
