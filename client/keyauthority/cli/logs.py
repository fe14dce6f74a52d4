"""The log of commands that run until SIGTERM: on standard error, and bounded.

A message that every request may cause is written once a second.
"""

from __future__ import annotations

import logging
import sys
from typing import Final

from keyauthority.clock import monotonic

SECONDS: Final = 1.0
LOGGERS: Final = frozenset(
    {
        *("keyauthority.middleware", "keyauthority.gateway.check"),
        *("keyauthority.gateway.requirements", "keyauthority.notify.attempts"),
    }
)
"""Those of checks, and of attempts to deliver an event."""


class RateLimitFilter(logging.Filter):
    """Passes each message of `LOGGERS`, by its text before formatting, once in `SECONDS`."""

    def __init__(self) -> None:
        super().__init__()
        self._next: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return True if the record is written."""
        if record.name not in LOGGERS:
            return True
        now = monotonic()
        if now < self._next.get(record.msg, now):
            return False
        self._next[record.msg] = now + SECONDS
        return True


def log_to_stderr() -> None:
    """Write the log to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(RateLimitFilter())
    logging.basicConfig(
        handlers=[handler], level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
