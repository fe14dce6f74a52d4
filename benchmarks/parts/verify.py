"""Verify of one repeated question, the best case, beside the systems that one would use."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Final

from benchmarks.authority import Authority, serving
from benchmarks.databases import postgres
from benchmarks.figures import Part
from benchmarks.h2load import CONNECTIONS, STREAMS, Load, require
from benchmarks.neighbours import NEIGHBOURS, enter
from benchmarks.run import Measure, Run, take_turns

PLAIN: Final = "Verify, native transport, SQLite"
_SIDES: Final = {
    # name: (engine, transport, TLS)
    PLAIN: ("sqlite", "native", False),
    "Verify, native transport, PostgreSQL": ("postgres", "native", False),
    "Verify, grpcio, SQLite": ("sqlite", "grpcio", False),
    "Verify, grpcio, PostgreSQL": ("postgres", "grpcio", False),
    "Verify, grpcio with TLS, SQLite": ("sqlite", "grpcio", True),
    "Verify, grpcio with TLS, PostgreSQL": ("postgres", "grpcio", True),
}
_RATIOS: Final = (
    # name, over, under, aim
    ("to etcd", PLAIN, "etcd, serializable Range", "≥ 1.0"),
    ("to an empty handler of grpcio (asyncio)", PLAIN, "empty handler, grpcio (asyncio)", "≥ 5"),
    ("to an empty handler of grpcio (threads)", PLAIN, "empty handler, grpcio (threads)", ""),
    ("to an empty handler of C++", PLAIN, "empty handler, gRPC's C++ server", "≥ 0.6"),
    ("to an empty handler of its transport", PLAIN, "empty handler, native transport", ""),
    ("to PostgreSQL's SELECT", PLAIN, "PostgreSQL, SELECT by primary key", ""),
    ("to Redis' GET", PLAIN, "Redis, GET", ""),
    ("PostgreSQL to SQLite", "Verify, native transport, PostgreSQL", PLAIN, "≥ 0.9"),
    ("TLS to none, grpcio", "Verify, grpcio with TLS, SQLite", "Verify, grpcio, SQLite", ""),
)
_STALENESS: Final = "10s"  # a database on a core under load does not prove itself each second
_TEXT: Final = f"""\
The best case, in calls per second: one question about one key, asked again and again while nothing
changes, by {CONNECTIONS * STREAMS} callers on {CONNECTIONS} connections. The first table has the
rates of real traffic. PostgreSQL and Redis need a connection for each caller. Every server has the
same one core, the load another; a PostgreSQL that a server uses is on the server's core, and the
server has --max-staleness {_STALENESS}. Each Verify is metered, and the operator's key is checked.
The neighbours only look up: no credential, no judgement. The native transport carries no TLS."""


def measure(run: Run) -> Part:
    """Measure all sides in turn."""
    require()
    part = Part("Verify of one question, repeated: the best case", _TEXT)
    with ExitStack() as stack:
        cluster = stack.enter_context(postgres(run))
        sides: dict[str, Measure] = {}
        for number, (name, (engine, transport, tls)) in enumerate(_SIDES.items()):
            flags: tuple[str, ...] = ("--transport", transport)
            if engine == "postgres":
                flags += ("--store", cluster.create(), "--max-staleness", _STALENESS)
            served = serving(run, f"verify-{number}", *flags, tls=tls)
            sides[name] = _verify(run, stack.enter_context(served))
        sides |= enter(stack, run, tuple(NEIGHBOURS), part.left_out)
        part.add("calls/s", take_turns(sides, run.rounds))
    for ratio in _RATIOS:
        part.compare(*ratio)
    return part


def _verify(run: Run, authority: Authority) -> Load:
    return Load(run, authority.verify(authority.create()))
