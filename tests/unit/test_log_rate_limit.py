"""The rate limit of the log, which bounds the lines that callers can cause."""

from __future__ import annotations

import logging

from keyauthority_server import logs


def record(text: object, level: int = logging.WARNING) -> logging.LogRecord:
    """Return a line on its way to the log."""
    return logging.LogRecord("server", level, "", 0, text, (), None)


def test_repeated_event_is_limited_and_counted() -> None:
    """A number of lines per window pass; the next window states how many were dropped."""
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


def test_text_in_a_line_creates_no_new_event() -> None:
    """A caller's text cannot bypass the limit."""
    bound = logs.RateLimitFilter()
    lines = [logging.LogRecord("x", logging.ERROR, "", 0, "%s", (n,), None) for n in range(200)]
    assert logs.LINES_MAX == sum(map(bound.filter, lines))


def test_debug_lines_are_not_limited() -> None:
    """The level DEBUG shows every line."""
    bound = logs.RateLimitFilter()
    assert all(bound.filter(record("seen", logging.DEBUG)) for _ in range(200))
