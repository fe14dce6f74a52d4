"""Logging: structured lines on standard error, one line an event whatever it holds.

Nothing here knows of secrets, since none is ever given to it. Whatever callers do, the log grows no
faster than `LINES_MAX` a window for each of the few events that the server has names for.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from keyauthority_server.config import LogFormat, LogLevel

LINES_MAX: Final = 50  # of one event in a window: enough to see what is going on
WINDOW_SECONDS: Final = 10.0

# C0 and C1 controls, line and paragraph separators, marks that turn the direction of text, and
# surrogates, which no encoder takes.
_UNSAFE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_BARE: Final = re.compile(r"[^\s\"=\\]+")  # a value that needs no quotes


class RateLimitFilter(logging.Filter):
    """Lets through so many lines of one event in a window, and says in the next how many it kept.

    An event is a logger's message before anything is put into it. DEBUG is not bounded: whoever
    turns that on wants it all.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._now = now
        self._end = now() + WINDOW_SECONDS
        self._lines: Counter[tuple[str, int, str]] = Counter()
        self._kept: Counter[tuple[str, int, str]] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return False for a line too many."""
        if record.levelno <= logging.DEBUG:
            return True
        if self._now() >= self._end:
            self._end = self._now() + WINDOW_SECONDS
            self._kept = self._lines - Counter(dict.fromkeys(self._lines, LINES_MAX))
            self._lines.clear()
        given: object = record.msg  # structlog hands over the event's whole dictionary
        text = given.get("event") if isinstance(given, dict) else given
        event = (record.name, record.levelno, str(text))
        self._lines[event] += 1
        kept = self._kept.pop(event, 0)
        if kept and isinstance(given, dict):
            record.msg = {**given, "not_shown": kept}
        elif kept:
            record.__dict__["not_shown"] = kept
        return self._lines[event] <= LINES_MAX


def configure(log_format: LogFormat, level: LogLevel, **bound: object) -> None:
    """Write structlog's and the standard library's events to standard error, from a level on.

    `bound` goes into each line.
    """

    def bind(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        return {**event, **bound}

    shared: list[Processor] = [
        bind,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    render: Processor = (
        structlog.processors.JSONRenderer(sort_keys=True, default=str)
        if log_format is LogFormat.JSON
        else _text
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(RateLimitFilter())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                render,
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    logging.captureWarnings(True)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )


def _text(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    """Render `time level event name=value …`, with all that could forge a line escaped."""
    words = [event.pop("timestamp"), event.pop("level"), event.pop("event")]
    pairs = [f"{name}={_quoted(value)}" for name, value in sorted(event.items())]
    return _UNSAFE.sub(_escaped, " ".join([*map(str, words), *pairs]))


def _quoted(value: object) -> str:
    text = str(value)
    return text if _BARE.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")
