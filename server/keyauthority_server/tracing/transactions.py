"""A span for each transaction of the store and of the counters that a traced call waits for.

Writes of several calls may share a commit: each has a span of its own. Transactions outside a call,
such as the flush of usage counts, have none.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from opentelemetry.trace import (
    Span,
    SpanKind,
    StatusCode,
    Tracer,
    get_current_span,
    set_span_in_context,
    use_span,
)

from keyauthority_server.store.counters import Counters, Spend, SpendResult
from keyauthority_server.store.interface import Store

READ: Final = "store.read"
WRITE: Final = "store.write"
SPEND: Final = "store.draw"

_READS: Final = ("query", "read", "read_many", "read_dated", "get_project", "find_imported")


class TransactionSpans:
    """Begins the spans of transactions; the call's span must be recording."""

    def __init__(self, tracer: Tracer, engine: str) -> None:
        """`engine` is the value of `db.system.name`."""
        self._tracer = tracer
        self._attributes = {"db.system.name": engine}

    def begin(self, name: str, parent: Span) -> Span:
        """Start a span."""
        return self._tracer.start_span(
            name, set_span_in_context(parent), SpanKind.CLIENT, self._attributes
        )

    def instrument(self, store: Store, counters: Counters) -> None:
        """Wrap the methods of these two objects that run transactions."""
        for name in _READS:
            setattr(store, name, self._around(READ, getattr(store, name)))
        for target, method, name in ((store, "write", WRITE), (counters, "spend", SPEND)):
            setattr(target, method, self._around(name, getattr(target, method)))
        now = "spend_now"
        setattr(counters, now, self._around_spend_now(counters.spend_now))

    def _around(self, name: str, run: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
        async def spanned(*args: Any, **kwargs: Any) -> Any:
            parent = get_current_span()
            if not parent.is_recording() or _is_transaction(parent):
                return await run(*args, **kwargs)
            span = self.begin(name, parent)
            with use_span(span, True, record_exception=False, set_status_on_exception=False):
                try:
                    return await run(*args, **kwargs)
                except Exception as failure:
                    _fail(span, failure)
                    raise

        return spanned

    def _around_spend_now(
        self, run: Callable[[Sequence[Spend]], Sequence[SpendResult] | None]
    ) -> Callable[[Sequence[Spend]], Sequence[SpendResult] | None]:
        def spanned(spends: Sequence[Spend]) -> Sequence[SpendResult] | None:
            parent = get_current_span()
            if not parent.is_recording():
                return run(spends)
            span = self.begin(SPEND, parent)
            try:
                results = run(spends)
            except Exception as failure:
                _fail(span, failure)
                span.end()
                raise
            if results is not None:  # otherwise nothing was spent, and the span is discarded
                span.end()
            return results

        return spanned


def _is_transaction(span: Span) -> bool:
    """Return whether a recording span is one of a transaction, which may read in steps."""
    return getattr(span, "kind", None) is SpanKind.CLIENT


def _fail(span: Span, failure: Exception) -> None:
    """Name the failure by its type only: its text may hold values of the request."""
    span.set_attribute("error.type", type(failure).__name__)
    span.set_status(StatusCode.ERROR)
