"""How a call is turned away by a server that has too much to do: fast, and told when to return.

What it may cost is a fraction of serving it, so the refusal is made once, before any call comes.
"""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import Final, Protocol

from keyauthority.errors import ErrorReason, error
from keyauthority_server.wire import Refusal, refusal_from

RETRY_AFTER: Final = timedelta(seconds=1)  # by then what waits now has been served
URGENT: Final = frozenset({"RevokeKey"})
"""RPCs with a lane of their own: they wait for nobody who adds or asks."""


class Ground(StrEnum):
    """Why a call was turned away."""

    WAITING = "waiting"
    """Those before it had waited too long already."""
    LANE = "lane"
    """Too many of its lane were being served."""
    PEER = "peer"
    """Its peer had made too many calls that no operator key answers for."""


class Tally(Protocol):
    """Counts the calls that were turned away."""

    def refused(self, ground: str, calls: int = 1) -> None:
        """Count some."""
        ...


def overloaded(message: str) -> Refusal:
    """Return the refusal of a call that may be made again after `RETRY_AFTER`."""
    return refusal_from(error(ErrorReason.OVERLOADED, message, retry_after=RETRY_AFTER))


BUSY: Final = overloaded("the server has more calls than it can serve")
