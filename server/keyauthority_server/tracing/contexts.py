"""The current span of a call, in a context of the call's own.

The native transport takes the first step of a call outside a task of its own: a context variable
that this step sets would be seen by the next call.
"""

from __future__ import annotations

from collections.abc import Awaitable, Generator
from contextvars import Context, copy_context
from typing import Any, Generic, TypeVar

from opentelemetry.context import attach
from opentelemetry.trace import (
    Span,
    format_span_id,
    format_trace_id,
    get_current_span,
    set_span_in_context,
)

T = TypeVar("T")


def context_with(span: Span) -> Context:
    """Return a copy of the context in which a span is the current one."""
    context = copy_context()
    context.run(attach, set_span_in_context(span))
    return context


class InContext(Generic[T]):
    """Awaits an awaitable, each step of which runs in a given context."""

    __slots__ = ("_awaitable", "_context")

    def __init__(self, context: Context, awaitable: Awaitable[T]) -> None:
        self._context = context
        self._awaitable = awaitable

    def __await__(self) -> Generator[Any, Any, T]:
        run, steps = self._context.run, self._awaitable.__await__()
        try:
            waited = run(steps.send, None)
            while True:
                try:
                    sent = yield waited
                except BaseException as thrown:  # noqa: BLE001 - to cancel is the awaitable's too
                    waited = run(steps.throw, thrown)
                else:
                    waited = run(steps.send, sent)
        except StopIteration as done:
            answer: T = done.value
            return answer


def trace_ids() -> dict[str, str]:
    """Return `trace_id` and `span_id` of the current span; empty without one."""
    context = get_current_span().get_span_context()
    if not context.is_valid:
        return {}
    return {
        "trace_id": format_trace_id(context.trace_id),
        "span_id": format_span_id(context.span_id),
    }
