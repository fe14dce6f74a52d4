"""Logging: structured events on standard error, always one line per event.

There is no redaction, since no secret is passed to the log. For each of the server's few event
names, the log grows by at most `LINES_MAX` lines per window, under any load.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from keyauthority_server.config import LogFormat, LogLevel

LINES_MAX: Final = 50  # of one event per window: enough for diagnosis
WINDOW_SECONDS: Final = 10.0

# C0 and C1 controls, line and paragraph separators, bidirectional controls, and surrogates, which
# cannot be encoded.
_UNSAFE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_BARE: Final = re.compile(r"[^\s\"=\\]+")  # a value without need for quotes


class RateLimitFilter(logging.Filter):
    """Passes `LINES_MAX` lines of an event per window; the next window reports the rest.

    An event is a logger's message before formatting. DEBUG is unbounded, since it is enabled to see
    everything.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._now = now
        self._end = now() + WINDOW_SECONDS
        self._lines: Counter[tuple[str, int, str]] = Counter()
        self._dropped: Counter[tuple[str, int, str]] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return False for a line beyond the limit."""
        if record.levelno <= logging.DEBUG:
            return True
        if self._now() >= self._end:
            self._end = self._now() + WINDOW_SECONDS
            self._dropped = self._lines - Counter(dict.fromkeys(self._lines, LINES_MAX))
            self._lines.clear()
        message: object = record.msg  # structlog passes the event's dictionary
        text = message.get("event") if isinstance(message, dict) else message
        event = (record.name, record.levelno, str(text))
        self._lines[event] += 1
        dropped = self._dropped.pop(event, 0)
        if dropped and isinstance(message, dict):
            record.msg = {**message, "not_shown": dropped}
        elif dropped:
            record.__dict__["not_shown"] = dropped
        return self._lines[event] <= LINES_MAX


def configure(
    log_format: LogFormat,
    level: LogLevel,
    context: Callable[[], Mapping[str, object]] = dict,
    **bound: object,
) -> None:
    """Write events of structlog and `logging` at or above a level to standard error.

    `bound`, and the result of `context` when the line is logged, are added to each line.
    """

    def bind(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        return {**event, **bound, **context()}

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
    """Render `time level event name=value …`; escape characters that could forge a line."""
    words = [event.pop("timestamp"), event.pop("level"), event.pop("event")]
    pairs = [f"{name}={_quoted(value)}" for name, value in sorted(event.items())]
    return _UNSAFE.sub(_escaped, " ".join([*map(str, words), *pairs]))


def _quoted(value: object) -> str:
    text = str(value)
    return text if _BARE.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")
