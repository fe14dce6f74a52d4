"""Lanes: how many calls of a sort are served at once; the rest is refused before it is even read.

A call that waits for nothing leaves its lane in the turn of the event loop in which it came. What a
lane fills with is calls that wait: for the writer's commit, for a page, for limits to be drawn. So
its length bounds the queue that they wait in, and with it how long.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from keyauthority_server.overload import OpenCalls, network_of
from keyauthority_server.rpc.policy import MUTATIONS
from keyauthority_server.shedding import URGENT, Ground, Tally, busy
from keyauthority_server.wire import Answer, Call

URGENT_MAX: Final = 2_000  # at 4,000 commits a second none of them waits longer than half of one
WRITES_MAX: Final = 1_000  # a quarter of a second of the writer's; 200 of one request_id must fit
PAGES_MAX: Final = 200  # they are read one after the other, 5 ms each
PAGES_ABREAST: Final = 2  # one is read, one packed: until it is, it takes 7 times its bytes
LOOKS_MAX: Final = 4_000  # a verification waits for its limits: at 10,000 draws a second

_PAGES: Final = frozenset({"ListKeys", "ListProjects", "ListEvents", "GetUsage"})


class Lane:
    """The calls of one sort in this process: how many are inside, and how many of them abreast.

    Those that are inside and not abreast wait for their turn; without `abreast` all are served.
    """

    __slots__ = ("_calls", "_turns")

    def __init__(self, limit: int, abreast: int | None = None, per_peer: int | None = None) -> None:
        self._calls = OpenCalls(limit, per_peer or limit)
        self._turns = None if abreast is None else asyncio.Semaphore(abreast)

    def around(self, answer: Answer, tally: Tally | None) -> Answer:
        """Return the method so that it raises OVERLOADED while the lane is full."""
        served = answer if self._turns is None else _in_turn(answer, self._turns)

        calls = self._calls

        async def in_lane(body: bytes, call: Call) -> bytes:
            peer = network_of(call.peer)
            if not calls.enter(peer):
                if tally is not None:
                    tally.refused(Ground.LANE)
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


def _in_turn(answer: Answer, turns: asyncio.Semaphore) -> Answer:
    async def in_turn(body: bytes, call: Call) -> bytes:
        async with turns:
            return await answer(body, call)

    return in_turn


def lanes() -> Mapping[str, Lane]:
    """Return the lanes of one process by the sort of call; see `sort_of`."""
    return {
        "urgent": Lane(URGENT_MAX, per_peer=_share(URGENT_MAX)),
        "write": Lane(WRITES_MAX, per_peer=_share(WRITES_MAX)),
        "page": Lane(PAGES_MAX, PAGES_ABREAST, _share(PAGES_MAX)),
        "look": Lane(LOOKS_MAX, per_peer=_share(LOOKS_MAX)),
    }


def _share(limit: int) -> int:
    """Return the calls that one peer may have in a lane: the rest is for all others."""
    return limit * 3 // 4


def sort_of(method: str) -> str:
    """Return the lane of an RPC by its name."""
    if method in URGENT:
        return "urgent"
    if method in MUTATIONS or method == "ReportUsage":
        return "write"
    return "page" if method in _PAGES else "look"
