"""Concurrency limits per RPC class; excess calls are rejected before they are parsed.

A call that waits for nothing ends in the iteration of the event loop in which it began. A limit is
reached by calls that wait: for a commit, for a page, for a draw of limits. So it bounds the length
of their queue, and thereby their wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from keyauthority_server.overload import OpenCalls, network_of
from keyauthority_server.overload.errors import URGENT, ShedCounter, ShedReason, busy
from keyauthority_server.rpc_types import Call, Handler

URGENT_MAX: Final = 2_000  # at 4,000 commits a second none of them waits longer than half of one
WRITES_MAX: Final = 1_000  # a quarter of a second of the writer's; 200 of one request_id must fit
PAGES_MAX: Final = 200  # they are read one after the other, 5 ms each
PAGES_ABREAST: Final = 2  # one is read, one packed: until it is, it takes 7 times its bytes
LOOKS_MAX: Final = 4_000  # a verification waits for its limits: at 10,000 draws a second

_PAGES: Final = frozenset({"ListKeys", "ListProjects", "ListEvents", "GetUsage"})


class ConcurrencyLimit:
    """The calls of one sort in this process: how many are inside, and how many of them abreast.

    Those that are inside and not abreast wait for their turn; without `abreast` all are served.
    """

    __slots__ = ("_calls", "_turns")

    def __init__(self, limit: int, abreast: int | None = None, per_peer: int | None = None) -> None:
        self._calls = OpenCalls(limit, per_peer or limit)
        self._turns = None if abreast is None else asyncio.Semaphore(abreast)

    def around(self, answer: Handler, tally: ShedCounter | None) -> Handler:
        """Return the method so that it raises OVERLOADED while the lane is full."""
        served = answer if self._turns is None else _in_turn(answer, self._turns)

        calls = self._calls

        async def in_lane(body: bytes, call: Call) -> bytes:
            peer = network_of(call.peer)
            if not calls.enter(peer):
                if tally is not None:
                    tally.refused(ShedReason.LANE)
                raise busy()
            try:
                return await served(body, call)
            finally:
                calls.leave(peer)

        return in_lane

    @property
    def inside(self) -> int:
        """Calls that are inside."""
        return self._calls.open


def _in_turn(answer: Handler, turns: asyncio.Semaphore) -> Handler:
    async def in_turn(body: bytes, call: Call) -> bytes:
        async with turns:
            return await answer(body, call)

    return in_turn


def concurrency_limits() -> Mapping[str, ConcurrencyLimit]:
    """Return the lanes of one process by the sort of call; see `class_of`."""
    return {
        "urgent": ConcurrencyLimit(URGENT_MAX, per_peer=_share(URGENT_MAX)),
        "write": ConcurrencyLimit(WRITES_MAX, per_peer=_share(WRITES_MAX)),
        "page": ConcurrencyLimit(PAGES_MAX, PAGES_ABREAST, _share(PAGES_MAX)),
        "look": ConcurrencyLimit(LOOKS_MAX, per_peer=_share(LOOKS_MAX)),
    }


def _share(limit: int) -> int:
    """Return the calls that one peer may have in a lane: the rest is for all others."""
    return limit * 3 // 4


def class_of(method: str, *, mutates: bool) -> str:
    """Return the class of an RPC by its name, and whether it makes a change."""
    if method in URGENT:
        return "urgent"
    if mutates or method == "ReportUsage":
        return "write"
    return "page" if method in _PAGES else "look"
