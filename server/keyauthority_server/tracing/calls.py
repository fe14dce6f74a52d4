"""A span for each RPC: around a method, outside all other wrappers.

The trace context is taken from the call and removed from its metadata: calls that differ in nothing
else have the same credential, which is parsed once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final

from google.rpc import code_pb2
from google.rpc.code_pb2 import Code
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from keyauthority_server.rpc_types import (
    DEFERRED,
    Call,
    Deferred,
    Handler,
    RpcError,
    Services,
    Settle,
    Shortcut,
    StreamMethod,
    Ticket,
    UnaryMethod,
)
from keyauthority_server.tracing import TRACE_HEADERS
from keyauthority_server.tracing.contexts import InContext, context_with
from keyauthority_server.tracing.transactions import SPEND, TransactionSpans

TRACEPARENT_MAX: Final = 512  # characters, as in OpenTelemetry, which logs a longer one

_FAULTS: Final = frozenset(
    {
        code_pb2.UNKNOWN,
        code_pb2.DEADLINE_EXCEEDED,
        code_pb2.UNIMPLEMENTED,
        code_pb2.INTERNAL,
        code_pb2.UNAVAILABLE,
        code_pb2.DATA_LOSS,
    }
)
"""Codes that OpenTelemetry counts as errors of the server."""
_ROOT: Final = Context()
_propagator: Final = TraceContextTextMapPropagator()


def traced(
    services: Services, tracer: Tracer, transactions: TransactionSpans, system: str
) -> Services:
    """Return the methods with a span around each call; `system` names the protocol."""

    def around(path: str, method: UnaryMethod | StreamMethod) -> UnaryMethod | StreamMethod:
        spans = CallSpans(tracer, path, system)
        rejects = _without_trace_context(method.rejects_unparsed)
        if isinstance(method, StreamMethod):
            return method._replace(open=_stream(spans, method), rejects_unparsed=rejects)
        shortcut = method.shortcut and TracedShortcut(spans, transactions, method.shortcut)
        return UnaryMethod(_unary(spans, method.answer), shortcut, rejects, urgent=method.urgent)

    return {
        service: {name: around(f"{service}/{name}", method) for name, method in methods.items()}
        for service, methods in services.items()
    }


class CallSpans:
    """Begins and ends the spans of one method."""

    __slots__ = ("_attributes", "_name", "_tracer")

    def __init__(self, tracer: Tracer, path: str, system: str) -> None:
        self._tracer = tracer
        self._name = path
        self._attributes = {"rpc.system.name": system, "rpc.method": path}

    def begin(self, call: Call) -> tuple[Span, Call]:
        """Start the span of a call; return it, and the call without its trace context."""
        parent = _ROOT
        for name, _ in call.metadata:
            if name in TRACE_HEADERS:
                parent, call = _parent_of(call), without_trace_context(call)
                break
        span = self._tracer.start_span(self._name, parent, SpanKind.SERVER, self._attributes)
        return span, call

    @staticmethod
    def end(span: Span, code: int) -> None:
        """End a span with the status of its call."""
        if span.is_recording():
            name = Code.Name(code)
            span.set_attribute("rpc.response.status_code", name)
            if code in _FAULTS:
                span.set_attribute("error.type", name)
                span.set_status(StatusCode.ERROR)
            span.end()

    @contextmanager
    def ending(self, span: Span) -> Iterator[None]:
        """End a span with the context, by its exception."""
        code: int = code_pb2.INTERNAL
        try:
            yield
            code = code_pb2.OK
        except RpcError as failed:
            code = failed.code
            raise
        except (asyncio.CancelledError, GeneratorExit):
            code = code_pb2.CANCELLED
            raise
        finally:
            self.end(span, code)


class TracedShortcut:
    """A `Shortcut` with a span for each call that it answers.

    The handler begins a span of its own for a call that is left to it; the first is discarded.
    """

    def __init__(
        self, spans: CallSpans, transactions: TransactionSpans, shortcut: Shortcut
    ) -> None:
        self._spans = spans
        self._transactions = transactions
        self._shortcut = shortcut
        self._deferred: dict[Ticket, Span] = {}
        self.begin_turn = shortcut.begin_turn

    def __call__(
        self, body: bytes, call: Call, ticket: Ticket | None = None
    ) -> bytes | Deferred | None:
        """Return the response, or None; see `Shortcut`."""
        span, call = self._spans.begin(call)
        answer = self._shortcut(body, call, ticket)
        if answer is DEFERRED and ticket is not None:
            self._deferred[ticket] = span
        elif answer is not None:
            self._spans.end(span, code_pb2.OK)
        return answer

    def end_turn(self, settle: Settle) -> Coroutine[Any, Any, None] | None:
        """Settle the deferred calls; each has a span for spending from its limits."""
        if not self._deferred:
            return self._shortcut.end_turn(settle)
        spans, self._deferred = self._deferred, {}
        spends = {
            ticket: self._transactions.begin(SPEND, span)
            for ticket, span in spans.items()
            if span.is_recording()
        }

        def settled(ticket: Ticket, answer: bytes | RpcError) -> None:
            if ticket in spends:
                spends[ticket].end()
            self._spans.end(
                spans[ticket], answer.code if isinstance(answer, RpcError) else code_pb2.OK
            )
            settle(ticket, answer)

        return self._shortcut.end_turn(settled)


def _unary(spans: CallSpans, answer: Handler) -> Handler:
    async def spanned(body: bytes, call: Call) -> bytes:
        span, call = spans.begin(call)
        with spans.ending(span):
            return await InContext(context_with(span), answer(body, call))

    return spanned


def _stream(
    spans: CallSpans, method: StreamMethod
) -> Callable[[bytes, Call], AsyncGenerator[bytes]]:
    async def spanned(body: bytes, call: Call) -> AsyncGenerator[bytes]:
        span, call = spans.begin(call)
        context = context_with(span)
        messages = method.open(body, call)
        with spans.ending(span):
            try:
                while True:
                    try:
                        message = await InContext(context, anext(messages))
                    except StopAsyncIteration:
                        break
                    yield message
            finally:
                await InContext(context, messages.aclose())

    return spanned


def without_trace_context(call: Call) -> Call:
    """Return a call without metadata of its trace."""
    metadata = tuple([pair for pair in call.metadata if pair[0] not in TRACE_HEADERS])
    return Call(metadata, call.peer, call.certificates)


def _without_trace_context(rejects: Callable[[Call], bool] | None) -> Callable[[Call], bool] | None:
    return rejects and (lambda call: rejects(without_trace_context(call)))


def _parent_of(call: Call) -> Context:
    """Return the context of the caller's span; empty unless exactly one well-formed is named."""
    named = [value for name, value in call.metadata if name == "traceparent"]
    if len(named) != 1 or not isinstance(named[0], str) or len(named[0]) > TRACEPARENT_MAX:
        return _ROOT
    return _propagator.extract({"traceparent": named[0]}, _ROOT)
