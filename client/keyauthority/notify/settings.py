"""Settings of the command, and the failures that end it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from keyauthority.aio import AsyncClient
from keyauthority.endpoint.listen import Listen


class CannotNotify(Exception):
    """The command cannot work as it is configured; the message says why."""


class CursorFailed(Exception):
    """The cursor file cannot be written now, or another process uses it."""


class CannotListen(Exception):
    """The address of the metrics cannot be listened on now."""


class ReceiverGone(Exception):
    """The receiver answered 410 Gone: it wants no events."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of a sender of events."""

    connect: Callable[[str | None], AsyncClient]
    """Returns a client of the authority with an operator key."""
    read_key: Callable[[], str | None]
    """Reads the operator key; raises CannotNotify."""
    webhook: str
    """URL of the receiver."""
    secret_file: Path
    cursor_file: Path | None
    """None: begin with now at each start."""
    allow_private: bool
    """Send to addresses that are not public, too."""
    allow_plaintext: bool
    """Send over http to public addresses."""
    metrics: Listen | None = None
    """Address of the metrics; None for none."""
