"""How a call is turned away by a server that has too much to do: fast, and told when to return.

What it may cost is a fraction of serving it, so what a refusal says is worked out once, before any
call comes. The exception is made for each: one that is raised again keeps the frames of all that
raised it before, and what they hold, for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from enum import StrEnum
from functools import partial
from typing import Final, Protocol

from keyauthority.errors import ErrorReason, error
from keyauthority_server.rpc_types import RpcError, rpc_error_from

RETRY_AFTER: Final = timedelta(seconds=1)  # by then what waits now has been served
URGENT: Final = frozenset({"RevokeKey"})
"""RPCs with a lane of their own: they wait for nobody who adds or asks."""


class ShedReason(StrEnum):
    """Why a call was turned away."""

    WAITING = "waiting"
    """Those before it had waited too long already."""
    LANE = "lane"
    """Too many of its lane were being served."""
    PEER = "peer"
    """Its peer had made too many calls that no operator key answers for."""


class ShedCounter(Protocol):
    """Counts the calls that were turned away."""

    def refused(self, ground: str, calls: int = 1) -> None:
        """Count some."""
        ...


def overloaded(message: str) -> Callable[[], RpcError]:
    """Return what makes refusals of calls that may be made again after `RETRY_AFTER`."""
    made = rpc_error_from(error(ErrorReason.OVERLOADED, message, retry_after=RETRY_AFTER))
    return partial(RpcError, made.code, made.message, made.status)


busy: Final = overloaded("the server has more calls than it can serve")
