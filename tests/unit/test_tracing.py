"""Spans around methods: contexts that do not mix, statuses, deferred calls; and tracing off."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, Final

import pytest
from google.rpc import code_pb2
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import get_current_span
from structlog.testing import capture_logs

from keyauthority_server import tracing
from keyauthority_server.rpc_types import (
    DEFERRED,
    Call,
    Deferred,
    RpcError,
    Settle,
    StreamMethod,
    Ticket,
    UnaryMethod,
)
from keyauthority_server.runtime.worker import start_tracing
from keyauthority_server.tracing import TracingUnavailable, is_requested
from keyauthority_server.tracing.exporting import Tracing
from tests.faults.folders import settings

OTLP: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
EXPORTER: Final = "OTEL_TRACES_EXPORTER"
PROTOCOL: Final = "OTEL_EXPORTER_OTLP_PROTOCOL"
CALL: Final = Call((("x-auth-token", "op"),), "ipv4:127.0.0.1:1")
TRACE_ID: Final = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT: Final = ("traceparent", f"00-{TRACE_ID}-00f067aa0ba902b7-01")


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    """The spans that have ended."""
    return InMemorySpanExporter()


@pytest.fixture
def traces(exporter: InMemorySpanExporter) -> Tracing:
    """Tracing that exports to `exporter`."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Tracing(provider, "sqlite")


def unary(traces: Tracing, method: UnaryMethod) -> UnaryMethod:
    """Return a traced method."""
    made = traces.calls({"a.Service": {"Method": method}}, "grpc")["a.Service"]["Method"]
    assert isinstance(made, UnaryMethod)
    return made


def stream(traces: Tracing, method: StreamMethod) -> StreamMethod:
    """Return a traced stream."""
    made = traces.calls({"a.Service": {"Method": method}}, "grpc")["a.Service"]["Method"]
    assert isinstance(made, StreamMethod)
    return made


def statuses(exporter: InMemorySpanExporter) -> list[tuple[object, bool]]:
    """Return the status of each call, and whether it counts as an error."""
    return [
        (attributes_of(span)["rpc.response.status_code"], not span.status.is_unset)
        for span in exporter.get_finished_spans()
    ]


def attributes_of(span: ReadableSpan) -> dict[str, object]:
    """Return the attributes of a span."""
    return dict(span.attributes or {})


def current_trace() -> str:
    """Return the current trace's id; zeros without one."""
    return f"{get_current_span().get_span_context().trace_id:032x}"


async def test_calls_that_wait_keep_their_spans_apart(traces: Tracing) -> None:
    """The first step of a call may run outside a task: it leaves no current span behind."""
    seen: list[str] = []

    async def answer(body: bytes, call: Call) -> bytes:
        assert CALL == call
        seen.append(current_trace())
        await asyncio.sleep(0)
        seen.append(current_trace())
        return body

    method = unary(traces, UnaryMethod(answer))
    other = f"{'5' * 32}"
    parents = [PARENT, ("traceparent", f"00-{other}-00f067aa0ba902b7-01")]
    calls = [method.answer(b"", CALL._replace(metadata=(*CALL.metadata, one))) for one in parents]
    for one in calls:
        assert one.send(None) is None
        assert "0" * 32 == current_trace()
    for one in calls:
        with pytest.raises(StopIteration):
            one.send(None)
    assert [TRACE_ID, other, TRACE_ID, other] == seen


async def test_span_has_the_status_of_the_call_and_no_text_of_its_failure(
    traces: Tracing, exporter: InMemorySpanExporter
) -> None:
    """Only faults of the server count as errors; a client that leaves is CANCELLED."""
    failures: Sequence[BaseException] = (
        RpcError(code_pb2.NOT_FOUND, "marked"),
        RpcError(code_pb2.UNAVAILABLE, "marked"),
        ValueError("marked"),
        asyncio.CancelledError("marked"),
    )
    for failure in failures:

        async def answer(body: bytes, call: Call, failure: BaseException = failure) -> bytes:
            raise failure

        with pytest.raises(type(failure)):
            await unary(traces, UnaryMethod(answer))(b"", CALL)
    expected = [("NOT_FOUND", False), ("UNAVAILABLE", True), ("INTERNAL", True)]
    assert [*expected, ("CANCELLED", False)] == statuses(exporter)
    assert "marked" not in "".join(span.to_json() for span in exporter.get_finished_spans())


class Settled:
    """A shortcut that defers calls and settles them with given answers."""

    def __init__(self, *answers: bytes | RpcError) -> None:
        self._answers = answers

    def begin_turn(self) -> None:
        """Begin nothing."""

    def __call__(
        self, body: bytes, call: Call, ticket: Ticket | None = None
    ) -> bytes | Deferred | None:
        """Answer at once without a body, leave long calls to the handler, else defer."""
        assert CALL == call
        if len(body) > 1:
            return None
        return DEFERRED if body else b"now"

    def end_turn(self, settle: Settle) -> Coroutine[Any, Any, None] | None:
        """Settle the calls later."""

        async def later() -> None:
            for ticket, answer in enumerate(self._answers):
                settle(ticket, answer)

        return later()


async def test_deferred_calls_have_a_span_that_ends_when_they_are_settled(
    traces: Tracing, exporter: InMemorySpanExporter
) -> None:
    """Each has the spending from its limits as a child; a call left to the handler has one span."""

    async def answer(body: bytes, call: Call) -> bytes:
        return body

    failed = RpcError(code_pb2.UNAVAILABLE, "")
    method = unary(traces, UnaryMethod(answer, Settled(b"later", failed)))
    assert method.shortcut
    call = CALL._replace(metadata=(*CALL.metadata, PARENT))
    assert [DEFERRED, DEFERRED] == [method.shortcut(b"1", call, ticket) for ticket in (0, 1)]
    settled: dict[int, object] = {}
    waiting = method.shortcut.end_turn(settled.__setitem__)
    assert waiting
    assert () == exporter.get_finished_spans()
    await waiting
    assert {0: b"later", 1: failed} == settled
    names = [span.name for span in exporter.get_finished_spans()]
    assert ["store.draw", "a.Service/Method"] * 2 == names
    calls = [span for span in exporter.get_finished_spans() if span.name == "a.Service/Method"]
    assert [TRACE_ID] * 2 == [f"{span.context.trace_id:032x}" for span in calls if span.context]
    assert ["OK", "UNAVAILABLE"] == [
        attributes_of(span)["rpc.response.status_code"] for span in calls
    ]
    exporter.clear()
    assert [b"now", b"long"] == [await method(b"", CALL), await method(b"long", CALL)]
    assert [("OK", False)] * 2 == statuses(exporter)


async def test_span_of_a_stream_lasts_until_its_end(
    traces: Tracing, exporter: InMemorySpanExporter
) -> None:
    """It ends with the stream, with its error, or when the client leaves; the source is closed."""
    closed: list[bytes] = []

    async def messages(body: bytes, call: Call) -> AsyncGenerator[bytes]:
        assert CALL == call
        try:
            for _ in range(2):
                assert TRACE_ID == current_trace()
                await asyncio.sleep(0)
                yield body
            if body == b"fails":
                raise RpcError(code_pb2.UNAUTHENTICATED, "")
        finally:
            closed.append(body)

    followed = stream(traces, StreamMethod(messages, lambda: None))
    call = CALL._replace(metadata=(*CALL.metadata, PARENT))
    assert [b"ends", b"ends"] == [one async for one in followed.open(b"ends", call)]
    with pytest.raises(RpcError):
        _ = [one async for one in followed.open(b"fails", call)]
    async with aclosing(followed.open(b"left", call)) as left:
        assert b"left" == await anext(left)
    assert [b"ends", b"fails", b"left"] == closed
    assert [("OK", False), ("UNAUTHENTICATED", False), ("CANCELLED", False)] == statuses(exporter)


@pytest.mark.parametrize(
    ("environ", "requested"),
    [
        ({}, False),
        ({OTLP: "http://collector:4317"}, True),
        ({EXPORTER: "console"}, True),
        ({OTLP: "", EXPORTER: " "}, False),
        ({OTLP: "http://collector:4317", EXPORTER: "none"}, False),
        ({OTLP: "http://collector:4317", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_SERVICE_NAME": "keys"}, False),
    ],
)
def test_tracing_is_on_only_if_the_environment_names_an_exporter(
    environ: dict[str, str], requested: bool
) -> None:
    """Other variables of OpenTelemetry do not turn it on."""
    assert requested is is_requested(environ)


def test_missing_extra_is_reported_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line names the remedy; log lines have no trace then."""
    monkeypatch.setattr(tracing, "find_spec", lambda name: None)
    environ = {OTLP: "http://collector:4317"}
    with pytest.raises(
        TracingUnavailable, match=r"^[^\n]*pip install 'keyauthority\[otel\]'[^\n]*$"
    ):
        tracing.start(environ, "sqlite")
    assert {} == tracing.log_context(environ)()


@pytest.mark.parametrize(
    ("environ", "reason"),
    [
        ({EXPORTER: "nowhere"}, "OTEL_TRACES_EXPORTER: no exporter 'nowhere' is installed"),
        (
            {EXPORTER: "otlp", PROTOCOL: "udp"},
            "OTEL_EXPORTER_OTLP_PROTOCOL must be one of grpc, http/",
        ),
    ],
)
def test_unknown_exporter_is_one_warning_of_one_worker(
    environ: dict[str, str], reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """All workers serve without traces; the first one logs why."""
    for name, text in environ.items():
        monkeypatch.setenv(name, text)
    with capture_logs() as lines:
        assert [None, None] == [start_tracing(settings(tmp_path), number) for number in (0, 1)]
    (line,) = lines
    assert ("tracing_off", "warning") == (line["event"], line["log_level"])
    assert str(line["reason"]).startswith(reason)


def test_worker_without_tracing_does_not_import_opentelemetry() -> None:
    """Nothing of it can be in the path of a call."""
    program = (
        "import sys; from keyauthority_server import tracing;"
        "import keyauthority_server.runtime.worker;"
        "assert tracing.start({}, 'sqlite') is None; tracing.log_context({})();"
        "sys.exit(any(name.split('.')[0] == 'opentelemetry' for name in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
