"""TLS on both transports beside plaintext: calls, handshakes, and a thousand connections."""

from __future__ import annotations

import random
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Final

from benchmarks.authority import SERVICE, Authority, serving
from benchmarks.figures import Part, quantile
from benchmarks.h2load import Load, LoadFailed, require
from benchmarks.load_generator import CALLS, CHANNELS, Traffic, TrafficLoad, write_bodies
from benchmarks.questions import KEYS, VALID, Keys, make_keys, questions
from benchmarks.run import LeftOut, Run, on_core, take_turns
from tests.faults.frames import PREFACE, SETTINGS, frame

_PLAIN: Final = "native, plaintext"
_NATIVE: Final = "native, TLS"
_GRPCIO: Final = "grpcio, TLS"
_FLAGS: Final = {_PLAIN: (), _NATIVE: (), _GRPCIO: ("--transport", "grpcio")}
_WORK: Final = ": processor time"
_EACH: Final = 10  # questions in the file for each key
_CONNECTIONS: Final = 1_000
_HANDSHAKE_SECONDS: Final = 2  # of openssl, which takes whole ones
_HANDSHAKES: Final = re.compile(r"(\d+) connections in (\d+) real seconds")
_TEXT: Final = f"""\
Verify of {KEYS:,} keys, uniformly, another client address in each call, as in the part `traffic`
without changes: {CHANNELS * CALLS} callers on {CHANNELS} connections, SQLite, one core for each
server and another for the load. Processor time is that of the server's processes, by call.

Memory is that of the worker, for {_CONNECTIONS:,} connections that are open and idle. With a call
on each of them at once, h2load repeats one question; the times are those of a call. Handshakes are
full ones of TLS 1.3 with a P-256 certificate, one after the other, by `openssl s_time`."""


@dataclass
class _Side:
    """A load, and the server's work for it."""

    load: TrafficLoad
    authority: Authority
    by_call: list[float] = field(default_factory=list)
    """Microseconds of work by call, in each round."""

    def __call__(self) -> float:
        before = self.authority.cpu_seconds()
        rate = self.load()
        seconds = self.authority.cpu_seconds() - before
        self.by_call.append(seconds / self.load.rounds[-1].calls * 1e6)
        return rate


def measure(run: Run) -> Part:
    """Measure the three sides in turn, then the connections of both transports."""
    require()
    if shutil.which("openssl") is None:
        raise LeftOut("openssl is not installed")
    part = Part("TLS", _TEXT)
    random.seed(1)
    with ExitStack() as stack:
        stack.enter_context(on_core(run.load_core))
        keys = make_keys(run)
        asked = questions(keys.plain, len(keys.plain) * _EACH)
        bodies = write_bodies(
            run.folder / "verify", (one.request().SerializeToString() for one in asked)
        )
        served = {name: stack.enter_context(_served(run, name, keys)) for name in _FLAGS}
        sides = {}
        for name, authority in served.items():
            traffic = Traffic(
                authority.server.address,
                f"{SERVICE}/Verify",
                bodies,
                prefix=VALID,
                metadata=f"x-auth-token={authority.server.operator_key}",
                ca=authority.ca,
            )
            sides[name] = _Side(TrafficLoad(run, traffic, 2 * run.seconds), authority)
        rates = take_turns(sides, run.rounds)
        for name, side in sides.items():
            rounds = side.load.rounds[1:]  # without the turn to warm up
            part.add("calls/s", {name: rates[name]})
            part.add("ms", {f"{name}, p99": [loaded.p99 for loaded in rounds]})
            part.add("µs", {f"{name}{_WORK}": side.by_call[1:]})
        for name in (_NATIVE, _GRPCIO):
            _connections(run, part, name, served[name])
    part.compare("TLS to plaintext, native", _NATIVE, _PLAIN, "≥ 0.5")
    part.compare("TLS on native to TLS on grpcio", _NATIVE, _GRPCIO, "≥ 4")
    part.compare("processor time of plaintext to TLS, native", _PLAIN + _WORK, _NATIVE + _WORK)
    part.compare("processor time of grpcio's TLS to native's", _GRPCIO + _WORK, _NATIVE + _WORK)
    return part


@contextmanager
def _served(run: Run, name: str, keys: Keys) -> Iterator[Authority]:
    """Run a server with a copy of the keys."""
    folder = f"tls-{name.replace(', ', '-')}"
    data = keys.store.settings.data
    with serving(run, folder, *_FLAGS[name], tls=name != _PLAIN, data_from=data) as authority:
        yield authority


def _connections(run: Run, part: Part, name: str, authority: Authority) -> None:
    """Measure handshakes, and many connections."""
    made = [_handshakes(run, authority) for _ in range(run.rounds)]
    part.add("/s", {f"{name}: handshakes": [rate for rate, _ in made]})
    part.add("µs", {f"{name}: processor time of a handshake": [work for _, work in made]})
    before = sum(authority.worker_memory())
    with _open(authority):
        grown = sum(authority.worker_memory()) - before
    part.add("KB", {f"{name}: memory of a connection": [grown * 1024 / _CONNECTIONS]})
    load = Load(run, authority.verify(authority.create()), connections=_CONNECTIONS, streams=1)
    label = f"{name}, {_CONNECTIONS:,} connections"
    try:
        load()
        loaded = load.measure(timed=True)
    except LoadFailed:
        part.left_out.append(f"{label}: the machine is too busy, calls were refused")
        return
    part.add("calls/s", {label: [loaded.rate]})
    for share in (0.5, 0.99):
        times = [quantile(loaded.latencies, share) * 1e3]
        part.add("ms", {f"{label}, p{share * 100:.0f}": times})


def _handshakes(run: Run, authority: Authority) -> tuple[float, float]:
    """Return the handshakes a second that one client makes, and the server's work for each."""
    program = ("openssl", "s_time", "-new", "-time", str(_HANDSHAKE_SECONDS))
    command = [*run.pinned(run.load_core), *program, "-connect", authority.server.address]
    before = authority.cpu_seconds()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    work = authority.cpu_seconds() - before
    found = _HANDSHAKES.search(done.stdout)
    assert found, done.stdout
    number, seconds = map(int, found.groups())
    return number / seconds, work / number * 1e6


@contextmanager
def _open(authority: Authority) -> Iterator[None]:
    """Hold connections on which HTTP/2 has begun."""
    assert authority.ca is not None
    context = ssl.create_default_context(cafile=str(authority.ca))
    context.set_alpn_protocols(["h2"])
    host, _, port = authority.server.address.rpartition(":")
    with ExitStack() as stack:
        for _ in range(_CONNECTIONS):
            raw = stack.enter_context(socket.create_connection((host, int(port))))
            one = stack.enter_context(context.wrap_socket(raw, server_hostname="localhost"))
            one.sendall(PREFACE + frame(SETTINGS, 0, 0))
            one.recv(1)
        yield
