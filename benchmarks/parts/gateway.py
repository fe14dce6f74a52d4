"""The gateway: checks on one core, and the latency that a check adds at Envoy and at nginx."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from benchmarks.authority import NEEDED, serving
from benchmarks.figures import Part
from benchmarks.h2load import OneByOne, require
from benchmarks.load_generator import CHANNELS, Traffic, TrafficLoad, write_bodies
from benchmarks.questions import Question, make_keys, questions
from benchmarks.run import LeftOut, Measure, Run, on_core, take_turns
from benchmarks.steady_changes import SteadyChanges, UnderChanges, changing_keys
from tests import nginx
from tests.gateway.envoy_client import CHECK, request
from tests.gateway.processes import Gateway, gateway
from tests.gateway.proxies import PROGRAMS, Ends, proxy
from tests.ports import free_port

_ALLOWED: Final = b"\x0a\x00\x1a"  # the beginning of CheckResponse: status OK, then ok_response
_KEYS: Final = 10_000
_CHANGES: Final = (0, 10)  # per second, of other keys
_CALLS: Final = (1, 16)  # at once on each of 4 connections
_AGENT: Final = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36"
_LEARNING_SECONDS: Final = 4.0  # each key is asked for once before anything is measured
_TEXT: Final = f"""\
Checks per second on one core over gRPC, of requests with keys drawn from {_KEYS:,}, another client
address in each and a needed permission, while other keys are changed. Then HTTP requests one after
another on one connection, through Envoy and nginx with the configurations of the examples, to a
route with a check (a key and a permission) and to one without. Proxy, gateway and service share a
core; the client and the authority have another."""


def measure(run: Run) -> Part:
    """Measure checks at the gateway alone, then requests through each proxy."""
    require()
    part = Part("Gateway", _TEXT)
    keys = make_keys(run)
    with ExitStack() as stack:
        authority = stack.enter_context(
            serving(run, "gateway", cores=(run.load_core,), data_from=keys.store.settings.data)
        )
        settings = {"KEYAUTHORITY_OPERATOR_KEY": authority.server.operator_key}
        with on_core(run.server_core):
            running = stack.enter_context(
                gateway(authority.server.address, "--trusted-proxies", "1", settings=settings)
            )
        try:
            changer = stack.enter_context(changing_keys(run, authority))
            _measure_checks(run, part, running, keys.plain[:_KEYS], changer)
        except LeftOut as reason:
            part.left_out.append(f"checks over gRPC: {reason}")
        key = authority.create(kind="restricted", permissions=NEEDED).secret_key.reveal()
        for name in ("envoy", "nginx"):
            try:
                with _proxied(run, name, running) as url:
                    _compare(run, part, name, url, key)
            except LeftOut as reason:
                part.left_out.append(f"{name}: {reason}")
    return part


def _measure_checks(
    run: Run, part: Part, running: Gateway, tokens: Sequence[str], changer: SteadyChanges
) -> None:
    asked = questions(tokens, 4 * len(tokens))
    bodies = write_bodies(run.folder / "checks", map(_check, asked))

    def load(calls: int, seconds: float) -> TrafficLoad:
        traffic = Traffic(running.grpc, CHECK, bodies, _ALLOWED, calls=calls)
        return TrafficLoad(run, traffic, seconds)

    load(_CALLS[-1], _LEARNING_SECONDS)()
    loads = {
        f"checks, {CHANNELS * calls} at once, {rate} changes/s": (load(calls, run.seconds), rate)
        for calls in _CALLS
        for rate in _CHANGES
    }
    sides: dict[str, Measure] = {
        name: UnderChanges(load, changer, rate) for name, (load, rate) in loads.items()
    }
    part.add("/s", take_turns(sides, run.rounds))
    for name, (one, _) in loads.items():
        part.add("ms", {f"{name}, p99": [loaded.p99 for loaded in one.rounds[1:]]})
    part.add("µs", {"processor time of a check": [_processor_time(running, load(16, run.seconds))]})


def _processor_time(running: Gateway, load: TrafficLoad) -> float:
    """Return the processor time that the gateway takes for a check, in microseconds."""
    before = _ticks(running.process.pid)
    load()
    ticks = _ticks(running.process.pid) - before
    return 1e6 * ticks / os.sysconf("SC_CLK_TCK") / load.rounds[-1].calls


def _ticks(pid: int) -> int:
    """Return the processor time of a process, in clock ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])  # utime and stime of proc(5)


def _check(question: Question) -> bytes:
    """Return a check as Envoy sends it for a request of a browser's size."""
    headers = {
        ":authority": "shop.example",
        ":method": "GET",
        ":path": "/orders",
        "accept": "application/json",
        "authorization": f"Bearer {question.token}",
        "user-agent": _AGENT,
        "x-forwarded-proto": "https",
        "x-request-id": "9fc6d87f-f332-4444-b85a-94bad22c378b",
    }
    needed = {"permission": ",".join(question.permissions)} if question.permissions else {}
    return request(headers, source=question.client_ip, **needed).SerializeToString()


@contextmanager
def _proxied(run: Run, name: str, running: Gateway) -> Iterator[str]:
    """Run a proxy with the configuration of its example, and a service behind it."""
    folder = run.folder / name
    folder.mkdir()
    if nginx.PROGRAM is None or not Path(str(PROGRAMS[name].path)).exists():
        raise LeftOut("not installed: make proxies; nginx from your system")
    port = free_port(nginx.ADDRESS)
    service = f"server {{ listen {nginx.ADDRESS}:{port}; return 200 ok; }}"
    with on_core(run.server_core), nginx.nginx(service, port):
        ends = Ends(running.grpc, running.http, f"{nginx.ADDRESS}:{port}")
        with proxy(name, folder, ends) as url:
            yield url


def _compare(run: Run, part: Part, name: str, url: str, key: str) -> None:
    """Measure requests to a route with a check and to one without, in turn."""
    checked, free = f"{name}, with a check", f"{name}, without"
    loads = {
        checked: OneByOne(run, f"{url}/orders", [f"authorization: Bearer {key}"]),
        free: OneByOne(run, f"{url}/health", []),
    }
    part.add("ms", take_turns(loads, run.rounds))
    for side, load in loads.items():
        part.add("ms", {f"{side}, p99": load.p99s[1:]})
    part.compare(f"{name}: with a check to without", checked, free)
