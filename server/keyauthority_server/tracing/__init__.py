"""OpenTelemetry traces: a span for each RPC, and for each store transaction that an RPC waits for.

Tracing wraps the methods and the store when the environment asks for it; otherwise nothing here is
in the path of a call, and OpenTelemetry is not imported. A span must not contain a token, a
purpose or an address. Begin with `start`, then read `calls` and `transactions`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from keyauthority_server.tracing.exporting import Tracing

TRACE_HEADERS: Final = frozenset({"traceparent", "tracestate"})
"""Metadata of W3C Trace Context. Only `traceparent` is used: `tracestate` may hold any text."""


class TracingUnavailable(Exception):
    """Traces are requested, but cannot be exported."""


def is_requested(environ: Mapping[str, str]) -> bool:
    """Return whether the environment asks for traces; empty variables count as unset."""
    exporter = environ.get("OTEL_TRACES_EXPORTER", "").strip()
    if exporter == "none" or environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    return bool(exporter or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").strip())


def start(environ: Mapping[str, str], engine: str) -> Tracing | None:
    """Start to export traces if the environment asks for them.

    `engine` is `sqlite` or `postgresql`. OpenTelemetry reads its other variables, `OTEL_*`, from
    the environment of the process. Raises TracingUnavailable with a one-line reason.
    """
    if not is_requested(environ):
        return None
    if not _is_installed():
        raise TracingUnavailable(
            "OpenTelemetry is not installed: pip install 'keyauthority[otel]', or unset "
            "OTEL_EXPORTER_OTLP_ENDPOINT and OTEL_TRACES_EXPORTER"
        )
    from keyauthority_server.tracing.exporting import Tracing, provider_of

    return Tracing(provider_of(environ), engine)


def log_context(environ: Mapping[str, str]) -> Callable[[], Mapping[str, str]]:
    """Return a function that returns `trace_id` and `span_id` of the current span, for the log."""
    if not (is_requested(environ) and _is_installed()):
        return dict
    from keyauthority_server.tracing.contexts import trace_ids

    return trace_ids


def _is_installed() -> bool:
    return find_spec("opentelemetry") is not None and find_spec("opentelemetry.sdk") is not None
