"""A collector of traces in the process of the test, as its servers' exporters see one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc
from opentelemetry.proto.trace.v1 import trace_pb2

WAIT_SECONDS: Final = 20.0


class Span(NamedTuple):
    """One exported span."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: int
    is_error: bool
    attributes: dict[str, str]
    start: int
    end: int

    @property
    def is_call(self) -> bool:
        """True for the span of an RPC."""
        return self.kind == trace_pb2.Span.SPAN_KIND_SERVER

    @property
    def is_root(self) -> bool:
        """True for the span of a call without a caller's span."""
        return not self.parent_id


class Collector:
    """The spans that have arrived."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.raw: list[bytes] = []
        """The requests, as they were sent."""
        self.resource: dict[str, str] = {}
        self._spans: list[Span] = []
        self._arrived = threading.Condition()

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a server that exports to this collector without delay."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{self.address}",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        }

    @property
    def spans(self) -> Sequence[Span]:
        """All spans up to now."""
        with self._arrived:
            return list(self._spans)

    def add(self, request: pb.ExportTraceServiceRequest) -> None:
        """Take the spans of a request."""
        with self._arrived:
            self.raw.append(request.SerializeToString())
            for resource in request.resource_spans:
                self.resource = _texts(resource.resource.attributes)
                self._spans += [
                    _span(span) for scope in resource.scope_spans for span in scope.spans
                ]
            self._arrived.notify_all()

    def wait(self, holds: Callable[[Sequence[Span]], bool]) -> Sequence[Span]:
        """Wait until a condition on all spans holds; return them."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: holds(self._spans), WAIT_SECONDS), self._spans
            return list(self._spans)

    def trace(self, trace_id: str) -> Sequence[Span]:
        """Wait for the call of a trace; return all spans of the trace by their start.

        The span of a call ends last, so those of its transactions have arrived before.
        """

        def of_trace(spans: Sequence[Span]) -> list[Span]:
            return [span for span in spans if span.trace_id == trace_id]

        arrived = self.wait(lambda spans: any(one.is_call for one in of_trace(spans)))
        return sorted(of_trace(arrived), key=lambda span: span.start)


@contextmanager
def collecting() -> Iterator[Collector]:
    """Run a collector."""
    server = grpc.server(ThreadPoolExecutor(2))
    collector = Collector(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")

    class Servicer(trace_service_pb2_grpc.TraceServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
            """Take spans."""
            collector.add(request)
            return pb.ExportTraceServiceResponse()

    register: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
    register(Servicer(), server)
    server.start()
    try:
        yield collector
    finally:
        server.stop(None).wait()


def _span(span: Any) -> Span:
    return Span(
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.kind,
        span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
        _texts(span.attributes),
        span.start_time_unix_nano,
        span.end_time_unix_nano,
    )


def _texts(attributes: Any) -> dict[str, str]:
    return {one.key: one.value.string_value for one in attributes}
