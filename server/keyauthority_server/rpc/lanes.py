"""Lanes: how many calls of a sort are served at once; the rest is refused before it is even read.

A call that waits for nothing leaves its lane in the turn of the event loop in which it came. What a
lane fills with is calls that wait: for the writer's commit, for a page, for limits to be drawn. So
its length bounds the queue that they wait in, and with it how long.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from keyauthority_server.rpc.policy import MUTATIONS
from keyauthority_server.shedding import BUSY, URGENT, Ground, Tally
from keyauthority_server.wire import Answer, Call

URGENT_MAX: Final = 2_000  # at 4,000 commits a second none of them waits longer than half of one
WRITES_MAX: Final = 1_000  # a quarter of a second of the writer's; 200 of one request_id must fit
PAGES_MAX: Final = 200  # they are read one after the other, 5 ms each
LOOKS_MAX: Final = 4_000  # a verification waits for its limits: at 10,000 draws a second

_PAGES: Final = frozenset({"ListKeys", "ListProjects", "ListEvents", "GetUsage"})


class Lane:
    """The calls of one sort in this process."""

    __slots__ = ("inside", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.inside = 0

    def around(self, answer: Answer, tally: Tally | None) -> Answer:
        """Return the method so that it raises OVERLOADED while the lane is full."""

        async def in_lane(body: bytes, call: Call) -> bytes:
            if self.inside >= self.limit:
                if tally is not None:
                    tally.refused(Ground.LANE)
                raise BUSY
            self.inside += 1
            try:
                return await answer(body, call)
            finally:
                self.inside -= 1

        return in_lane


def lanes() -> Mapping[str, Lane]:
    """Return the lanes of one process by the sort of call; see `sort_of`."""
    return {
        "urgent": Lane(URGENT_MAX),
        "write": Lane(WRITES_MAX),
        "page": Lane(PAGES_MAX),
        "look": Lane(LOOKS_MAX),
    }


def sort_of(method: str) -> str:
    """Return the lane of an RPC by its name."""
    if method in URGENT:
        return "urgent"
    if method in MUTATIONS or method == "ReportUsage":
        return "write"
    return "page" if method in _PAGES else "look"
