"""The log does not grow as fast as callers can make it."""

from __future__ import annotations

import logging

from keyauthority_server import logs


def record(text: object, level: int = logging.WARNING) -> logging.LogRecord:
    """Return a line on its way to the log."""
    return logging.LogRecord("server", level, "", 0, text, (), None)


def test_event_is_shown_so_often_and_counted_beyond() -> None:
    """Of one event so many lines a window pass; the first of the next says how many did not."""
    now = 0.0
    bound = logs.RateLimitFilter(lambda: now)
    shown = [bound.filter(record({"event": "failed", "call": n})) for n in range(1_000)]
    assert logs.LINES_MAX == sum(shown)
    assert bound.filter(record({"event": "another"}))
    now = logs.WINDOW_SECONDS
    first, second = record({"event": "failed"}), record({"event": "failed"})
    assert bound.filter(first)
    assert bound.filter(second)
    assert 1_000 - logs.LINES_MAX == first.msg["not_shown"]  # type: ignore[index]  # as structlog's
    assert {"event": "failed"} == second.msg


def test_text_that_is_put_into_a_line_makes_no_event_of_its_own() -> None:
    """What a caller sends cannot get around the bound."""
    bound = logs.RateLimitFilter()
    lines = [logging.LogRecord("x", logging.ERROR, "", 0, "%s", (n,), None) for n in range(200)]
    assert logs.LINES_MAX == sum(map(bound.filter, lines))


def test_debug_is_not_bounded() -> None:
    """Whoever turns on DEBUG sees all of it."""
    bound = logs.RateLimitFilter()
    assert all(bound.filter(record("seen", logging.DEBUG)) for _ in range(200))
