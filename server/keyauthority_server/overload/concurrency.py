"""Concurrency limits per RPC class; excess calls are rejected before they are parsed.

A call that waits for nothing ends in the iteration of the event loop in which it began. A limit is
reached by calls that wait: for a commit, for a page, for a spend. So it bounds the length of their
queue, and thereby their wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from enum import StrEnum, auto
from typing import Final

from keyauthority_server.overload import OpenCalls, network_of
from keyauthority_server.overload.errors import ShedCounter, ShedReason, busy
from keyauthority_server.rpc_types import Call, Handler

URGENT_MAX: Final = 2_000  # at 4,000 commits a second none of them waits longer than half of one
WRITES_MAX: Final = 1_000  # a quarter of a second of the writer's; 200 of one request_id must fit
PAGES_MAX: Final = 200  # they are read one after the other, 5 ms each
PAGES_RUNNING_MAX: Final = 2  # one is read, one encoded: until it is, it takes 7 times its bytes
READS_MAX: Final = 4_000  # a verification waits for its limits: at 10,000 spends a second


class CallClass(StrEnum):
    """A class of unary calls, with a concurrency limit of its own."""

    URGENT = auto()
    """Takes access away: never waits for additions or reads."""
    WRITE = auto()
    """Waits for a commit."""
    PAGE = auto()
    """Reads many records, encoded in a large response."""
    READ = auto()
    """All others."""


class ConcurrencyLimit:
    """Limits the calls of one class in this process: those admitted, and those of them that run.

    An admitted call waits until it may run; without `running_max` all run at once.
    """

    __slots__ = ("_calls", "_turns")

    def __init__(
        self, limit: int, running_max: int | None = None, per_peer: int | None = None
    ) -> None:
        self._calls = OpenCalls(limit, per_peer or limit)
        self._turns = None if running_max is None else asyncio.Semaphore(running_max)

    def around(self, answer: Handler, shed: ShedCounter | None) -> Handler:
        """Return the method so that it raises OVERLOADED while the limit is reached."""
        served = answer if self._turns is None else _in_turn(answer, self._turns)

        calls = self._calls

        async def limited(body: bytes, call: Call) -> bytes:
            peer = network_of(call.peer)
            if not calls.enter(peer):
                if shed is not None:
                    shed.refused(ShedReason.LANE)
                raise busy()
            try:
                return await served(body, call)
            finally:
                calls.leave(peer)

        return limited

    @property
    def admitted(self) -> int:
        """The number of admitted calls."""
        return self._calls.open


def _in_turn(answer: Handler, turns: asyncio.Semaphore) -> Handler:
    async def in_turn(body: bytes, call: Call) -> bytes:
        async with turns:
            return await answer(body, call)

    return in_turn


def concurrency_limits() -> Mapping[CallClass, ConcurrencyLimit]:
    """Return the limits of one process by class."""
    return {
        CallClass.URGENT: ConcurrencyLimit(URGENT_MAX, per_peer=_share(URGENT_MAX)),
        CallClass.WRITE: ConcurrencyLimit(WRITES_MAX, per_peer=_share(WRITES_MAX)),
        CallClass.PAGE: ConcurrencyLimit(PAGES_MAX, PAGES_RUNNING_MAX, _share(PAGES_MAX)),
        CallClass.READ: ConcurrencyLimit(READS_MAX, per_peer=_share(READS_MAX)),
    }


def _share(limit: int) -> int:
    """Return how much of a limit one peer may use: the rest is for all others."""
    return limit * 3 // 4
