"""The exporters that the environment names, and the end of the export at a drain."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from importlib.metadata import entry_points, version
from typing import Final

from opentelemetry.sdk.resources import (
    SERVICE_NAME,
    SERVICE_VERSION,
    OTELResourceDetector,
    Resource,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter

from keyauthority_server.rpc_types import Services
from keyauthority_server.store.counters import Counters
from keyauthority_server.store.interface import Store
from keyauthority_server.tracing import TracingUnavailable
from keyauthority_server.tracing.calls import traced
from keyauthority_server.tracing.transactions import TransactionSpans

CLOSE_SECONDS: Final = 3.0  # for the last spans; a drain must end within the supervisor's patience

_EXPORTERS: Final = "opentelemetry_traces_exporter"  # entry points
_PROTOCOLS: Final = {"grpc": "otlp_proto_grpc", "http/protobuf": "otlp_proto_http"}


class Tracing:
    """Traces of one process."""

    def __init__(self, provider: TracerProvider, engine: str) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("keyauthority_server", version("keyauthority"))
        self._transactions = TransactionSpans(self._tracer, engine)

    def calls(self, services: Services, system: str) -> Services:
        """Return the methods with a span around each call; see `calls.traced`."""
        return traced(services, self._tracer, self._transactions, system)

    def transactions(self, store: Store, counters: Counters) -> None:
        """Trace the transactions of a store and its counters; see `TransactionSpans`."""
        self._transactions.instrument(store, counters)

    async def close(self) -> None:
        """Export the ended spans; after `CLOSE_SECONDS` the rest is lost."""
        closing = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        closing.start()
        await asyncio.to_thread(closing.join, CLOSE_SECONDS)


def provider_of(environ: Mapping[str, str]) -> TracerProvider:
    """Return a provider with the exporters that the environment names.

    Raises TracingUnavailable.
    """
    named = environ.get("OTEL_TRACES_EXPORTER", "").strip() or "otlp"
    exporters = [_exporter(name.strip(), environ) for name in named.split(",")]
    given = OTELResourceDetector().detect().attributes
    resource = Resource.create(
        {SERVICE_NAME: "keyauthority", SERVICE_VERSION: version("keyauthority"), **given}
    )
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    for exporter in exporters:
        provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def _exporter(name: str, environ: Mapping[str, str]) -> SpanExporter:
    if name == "otlp":
        protocol = (
            environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "").strip()
            or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "").strip()
            or "grpc"
        )
        if protocol not in _PROTOCOLS:
            raise TracingUnavailable(
                f"OTEL_EXPORTER_OTLP_PROTOCOL must be one of {', '.join(_PROTOCOLS)}"
            )
        name = _PROTOCOLS[protocol]
    found = [point for point in entry_points(group=_EXPORTERS) if point.name == name]
    if not found:
        raise TracingUnavailable(f"OTEL_TRACES_EXPORTER: no exporter {name!r} is installed")
    try:
        exporter: SpanExporter = found[0].load()()
    except Exception as failure:  # of a package that the user has chosen
        raise TracingUnavailable(f"the exporter {name} cannot be used: {failure}") from failure
    return exporter
