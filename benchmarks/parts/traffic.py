"""Verify under the traffic that users have: many keys, varying questions, changes beside it."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from itertools import product
from typing import Final, NamedTuple, TypeVar

from benchmarks.authority import SERVICE, Authority, serving, worked
from benchmarks.cpp import build
from benchmarks.databases import postgres
from benchmarks.etcd import FOUND, RANGE, etcd, put_all, range_request
from benchmarks.figures import Part
from benchmarks.h2load import LoadFailed
from benchmarks.load_generator import (
    CALLS,
    CHANNELS,
    Bodies,
    Traffic,
    TrafficLoad,
    write_bodies,
)
from benchmarks.neighbours import EMPTY, cpp_server, empty_python
from benchmarks.questions import KEYS, VALID, Keys, draw, make_keys, questions
from benchmarks.run import LeftOut, Run, on_core, take_turns
from benchmarks.steady_changes import (
    ChangesFailed,
    SteadyChanges,
    UnderChanges,
    changing,
    changing_keys,
)
from benchmarks.stores import Filled
from tests.service.processes import children, command

T = TypeVar("T")
_EACH: Final = 10  # questions in the file for each key
_TURNS: Final = 3  # a turn is so many times as long as in other parts: changes need their time
_RATES: Final = (0, 10, 50)  # changes per second
_USUAL: Final = 10
_STALENESS: Final = "10s"  # a database on a core under load does not prove itself each second
_ASYNCIO: Final = "empty handler, grpcio (asyncio)"
_NATIVE: Final = "empty handler, native transport"
_CPP: Final = "empty handler, gRPC's C++ server"
_WORK: Final = ": processor time"
_TEXT: Final = f"""\
Calls per second of Verify and milliseconds per call, one core for the server and another for the
load: {CHANNELS * CALLS} callers on {CHANNELS} connections. Each call has another client address,
every second call needs a permission, and every second key is restricted to addresses. Keys are
drawn from {KEYS:,}, uniformly or by Zipf's law (exponent 1), out of a store of {2 * KEYS:,}.
Changes are CreateKey, UpdateKey and RevokeKey in turn, of other keys, sent at a steady rate. A
PostgreSQL runs on its server's core, with --max-staleness {_STALENESS} for the server. TLS is
served by the native transport.

etcd has as many keys and as many puts beside its serializable Range, which reads one key from
memory without a credential or a judgement. The empty handlers do nothing. One load generator in C++
makes all calls and checks every answer: a side has no figures if one of its calls or changes has
failed, or one Verify was not VALID.

Processor time is that of the server's processes, a PostgreSQL's among them, by call, changes
included. It depends less than the rate on other work that the machine has."""


class Cell(NamedTuple):
    """One way to ask Key Authority."""

    engine: str
    tls: bool = False
    zipf: bool = False
    limited: bool = False
    changes: int = _USUAL

    @property
    def name(self) -> str:
        """Its name in the report."""
        words = ["Verify", self.engine, "TLS" if self.tls else "plaintext"]
        words += [_kind(zipf=self.zipf), *(["rate limit"] if self.limited else [])]
        return f"{', '.join(words)}, {self.changes} changes/s"


def _kind(*, zipf: bool) -> str:
    return "Zipf" if zipf else "uniform"


def _etcd_name(changes: int, *, zipf: bool = False) -> str:
    return f"etcd Range, plaintext, {_kind(zipf=zipf)}, {changes} puts/s"


def cells() -> list[Cell]:
    """Return all that are measured: each server with all rates, the rest beside the usual one."""
    found = []
    for engine, tls in product(("SQLite", "PostgreSQL"), (False, True)):
        found += [Cell(engine, tls, changes=changes) for changes in _RATES]
        others = _RATES if (engine, tls) == ("SQLite", False) else (_USUAL,)
        found += [Cell(engine, tls, zipf=True, changes=changes) for changes in others]
        found += [Cell(engine, tls, limited=True, changes=changes) for changes in others]
    return found


@dataclass
class _Side(UnderChanges[TrafficLoad]):
    """A load with changes beside it, and the server's work for both."""

    worked: Callable[[], float] = float
    """The seconds that the server has worked."""
    by_call: list[float] = field(default_factory=list)
    """Microseconds of its work by call, in each round."""
    failure: str = ""
    """The first one: with it the side has no figures."""

    def __call__(self) -> float:
        if self.failure:
            return 0.0
        before = self.worked()
        try:
            rate = super().__call__()
        except (LoadFailed, ChangesFailed) as failure:
            self.failure = str(failure)
            return 0.0
        seconds = self.worked() - before
        self.by_call.append(seconds / self.measure.rounds[-1].calls * 1e6)
        return rate


def measure(run: Run) -> Part:
    """Measure all sides in turn."""
    build(run, "load_generator")
    part = Part("Verify under traffic", _TEXT)
    random.seed(1)  # which keys are asked for, in which order
    with ExitStack() as stack:
        stack.enter_context(on_core(run.load_core))
        sides = _ours(run, stack) | _neighbours(run, stack, part.left_out)
        in_turn: dict[str, _Side] = dict(sorted(sides.items(), key=_turn))
        rates = take_turns(in_turn, run.rounds)
    part.left_out += [f"{name}: {side.failure}" for name, side in sides.items() if side.failure]
    sides = {name: side for name, side in sides.items() if not side.failure}
    for name, side in sides.items():
        rounds = side.measure.rounds[1:]  # without the turn to warm up
        part.add("calls/s", {name: rates[name]})
        part.add("ms", {f"{name}, p50": [loaded.p50 for loaded in rounds]})
        part.add("ms", {f"{name}, p99": [loaded.p99 for loaded in rounds]})
        part.add("µs", {f"{name}{_WORK}": side.by_call[1:]})
        if side.rate == max(_RATES):
            part.add("/s", {f"{name}: changes answered meanwhile": side.answered[1:]})
    for name in (Cell("SQLite", changes=0).name, _CPP):
        if name in sides:
            shares = [loaded.core_share for loaded in sides[name].measure.rounds[1:]]
            part.add("of a core", {f"{name}: the load's share": shares})
    calls = sum(loaded.calls for side in sides.values() for loaded in side.measure.rounds)
    part.add("calls", {"calls in all, each answered as it should be": [calls]})
    _compare(part)
    return part


def _turn(side: tuple[str, _Side]) -> tuple[bool, bool, bool, float]:
    """Return the place of a side among the turns: those that are compared come close together."""
    name, measured = side
    changes = _USUAL if name in (_ASYNCIO, _NATIVE, _CPP) else measured.rate
    return "Zipf" in name, "rate limit" in name, "TLS" in name, changes


def _ours(run: Run, stack: ExitStack) -> dict[str, _Side]:
    """Start a server for each engine, in plaintext and with TLS, all on the same keys."""
    keys = make_keys(run)
    bodies = _bodies(run, keys)
    cluster = stack.enter_context(postgres(run))
    servers: dict[tuple[str, bool], tuple[Authority, SteadyChanges]] = {}
    for engine, tls in product(("SQLite", "PostgreSQL"), (False, True)):
        flags: tuple[str, ...] = ()
        name = f"traffic-{engine}-{'tls' if tls else 'plaintext'}"
        if engine == "PostgreSQL":
            url = _copied(run, keys.store, name, cluster.create())
            flags = ("--store", url, "--max-staleness", _STALENESS)
        served = serving(run, name, *flags, tls=tls, data_from=keys.store.settings.data)
        authority = stack.enter_context(served)
        servers[engine, tls] = authority, stack.enter_context(changing_keys(run, authority))
    sides = {}
    for cell in cells():
        authority, changer = servers[cell.engine, cell.tls]
        traffic = Traffic(
            authority.server.address,
            f"{SERVICE}/Verify",
            bodies[cell.zipf, cell.limited],
            prefix=VALID,
            metadata=f"x-auth-token={authority.server.operator_key}",
            ca=authority.ca,
        )
        load = TrafficLoad(run, traffic, _TURNS * run.seconds)
        pids = [authority.server.process.pid]
        pids += [cluster.postmaster] if cell.engine == "PostgreSQL" else []
        sides[cell.name] = _Side(load, changer, cell.changes, worked=_work_of(pids))
    return sides


def _neighbours(run: Run, stack: ExitStack, left_out: list[str]) -> dict[str, _Side]:
    seconds = _TURNS * run.seconds
    sides: dict[str, _Side] = {}
    try:
        sides |= _etcd(run, stack)
    except LeftOut as reason:
        left_out.append(f"etcd: {reason}")
    asked = write_bodies(run.folder / "empty", [b"x" * 80] * 1_000)
    for name, kind in ((_ASYNCIO, "aio"), (_NATIVE, "native")):
        target, pids = _started(stack, empty_python(run, kind))
        load = TrafficLoad(run, Traffic(target.address, EMPTY, asked), seconds)
        sides[name] = _Side(load, worked=_work_of(pids))
    target, pids = _started(stack, cpp_server(run))
    load = TrafficLoad(run, Traffic(target.address, EMPTY, asked), seconds)
    sides[_CPP] = _Side(load, worked=_work_of(pids))
    return sides


def _started(stack: ExitStack, program: AbstractContextManager[T]) -> tuple[T, list[int]]:
    """Enter a context; return its value and the processes that it has started."""
    before = set(children(os.getpid()))
    entered = stack.enter_context(program)
    return entered, [pid for pid in children(os.getpid()) if pid not in before]


def _work_of(pids: Sequence[int]) -> Callable[[], float]:
    """Return a function for the CPU seconds of these processes and their children."""
    return lambda: sum(map(worked, pids))


def _etcd(run: Run, stack: ExitStack) -> dict[str, _Side]:
    count = min(KEYS, max(run.keys))
    address, pids = _started(stack, etcd(run))
    keys = [f"KA{place:018}" for place in range(count)]
    put_all(address, keys)
    changer = stack.enter_context(changing(run, "puts", address))
    sides = {}
    for zipf, rates in ((False, _RATES), (True, (_USUAL,))):
        drawn = draw(keys, count * _EACH, zipf=zipf)
        path = run.folder / f"range-{_kind(zipf=zipf)}"
        traffic = Traffic(
            address, RANGE, write_bodies(path, map(range_request, drawn)), suffix=FOUND
        )
        for changes in rates:
            load = TrafficLoad(run, traffic, _TURNS * run.seconds)
            sides[_etcd_name(changes, zipf=zipf)] = _Side(
                load, changer, changes, worked=_work_of(pids)
            )
    return sides


def _bodies(run: Run, keys: Keys) -> dict[tuple[bool, bool], Bodies]:
    """Write a file of requests for each way to draw keys, without and with a rate limit."""
    written = {}
    for zipf, limited in product((False, True), (False, True)):
        tokens = keys.limited if limited else keys.plain
        asked = questions(tokens, len(tokens) * _EACH, zipf=zipf)
        path = run.folder / f"verify-{_kind(zipf=zipf)}-{limited}"
        requests = (question.request().SerializeToString() for question in asked)
        written[zipf, limited] = write_bodies(path, requests)
    return written


def _copied(run: Run, store: Filled, name: str, url: str) -> str:
    """Copy the store to a database; return its URL."""
    data = run.folder / f"{name}-copied"
    shutil.copytree(store.settings.data, data)
    source = f"sqlite://{data / store.settings.store.sqlite_path.name}"
    arguments = ["copy", "--data", str(data), "--from", source, "--to", url]
    subprocess.run([*command(), *arguments], check=True, capture_output=True)
    return url


def _compare(part: Part) -> None:
    """Add the ratios."""
    usual = Cell("SQLite").name
    for changes in _RATES:
        ours = Cell("SQLite", changes=changes).name
        name = f"SQLite to etcd, {changes} changes/s"
        part.compare(name, ours, _etcd_name(changes), "≥ 1.0")
        theirs = _etcd_name(changes) + _WORK
        part.compare(
            f"processor time of etcd to SQLite's, {changes} changes/s", theirs, ours + _WORK
        )
    for cell in (Cell("PostgreSQL"), Cell("SQLite", tls=True), Cell("PostgreSQL", tls=True)):
        security = " with TLS" if cell.tls else ""
        name = f"{cell.engine}{security} to etcd without TLS, {_USUAL} changes/s"
        part.compare(name, cell.name, _etcd_name(_USUAL), "" if cell.tls else "≥ 1.0")
    zipf = Cell("SQLite", zipf=True).name
    part.compare(f"SQLite to etcd, Zipf, {_USUAL} changes/s", zipf, _etcd_name(_USUAL, zipf=True))
    part.compare("SQLite to an empty handler of grpcio (asyncio)", usual, _ASYNCIO, "≥ 5")
    part.compare("SQLite to an empty handler of its transport", usual, _NATIVE)
    part.compare("SQLite to an empty handler of C++", usual, _CPP, "≥ 0.6")
    for engine, tls in product(("SQLite", "PostgreSQL"), (False, True)):
        still = Cell(engine, tls, changes=0).name
        label = f"{engine}{', TLS' if tls else ''}"
        for changes in _RATES[1:]:
            busy = Cell(engine, tls, changes=changes).name
            part.compare(f"{label}: {changes} changes/s to none", busy, still)
    part.compare("Zipf to uniform", zipf, usual)
    part.compare("rate limit to none", Cell("SQLite", limited=True).name, usual, "≥ 0.5")
    part.compare("PostgreSQL to SQLite", Cell("PostgreSQL").name, usual, "≥ 0.9")
    part.compare("TLS to plaintext, SQLite", Cell("SQLite", tls=True).name, usual, "≥ 0.5")
