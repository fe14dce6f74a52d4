"""The cost of traces in a Verify."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Final

from benchmarks.authority import ASKED, serving
from benchmarks.figures import Part
from benchmarks.h2load import Load, require
from benchmarks.run import Run, take_turns
from tests.service.collector import collecting

_OFF: Final = "without traces"
_TEXT: Final = """\
Calls a second of Verify, native transport, SQLite, one core, a key in memory. No call has a
traceparent. A collector on the load's core takes the spans over gRPC."""


def measure(run: Run) -> Part:
    """Measure servers that trace no call, one in a hundred, and each, in turn."""
    require()
    part = Part("What traces cost", _TEXT)
    with ExitStack() as opened:
        collector = opened.enter_context(collecting())
        sampler = ("OTEL_TRACES_SAMPLER=parentbased_traceidratio",)
        exporter = (*sampler, f"OTEL_EXPORTER_OTLP_ENDPOINT=http://{collector.address}")
        servers: dict[str, tuple[str, ...]] = {_OFF: ()} | {
            f"{ratio} % of the calls": (*exporter, f"OTEL_TRACES_SAMPLER_ARG={ratio / 100}")
            for ratio in (1, 100)
        }
        sides = {}
        for number, (name, variables) in enumerate(servers.items()):
            before = ("env", *variables) if variables else ()
            authority = opened.enter_context(serving(run, f"tracing-{number}", before=before))
            sides[name] = Load(run, authority.verify(authority.strict(), **ASKED))
        part.add("calls/s", take_turns(sides, run.rounds))
    part.compare("traces of 1 % of the calls", "1 % of the calls", _OFF, "≥ 0.7")
    return part
