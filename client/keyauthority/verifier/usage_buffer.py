"""Verifications that were judged in this process, summed up until they are reported."""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta
from threading import Lock
from typing import Final, NamedTuple

from keyauthority.model import UsageRow, VerdictCode

ROWS_MAX: Final = 1_000  # in one report: as many as ReportUsage takes
BATCHES_MAX: Final = 100  # reports kept while the authority takes none; what is older is lost
_TAKEN_AT_ONCE: Final = 1_000  # counts: those who verify wait for less than a millisecond

_HOUR: Final = timedelta(hours=1)
_TICK: Final = timedelta(microseconds=1)


class Count:
    """The verifications of one key with one verdict in one hour, since they were last taken."""

    __slots__ = ("access_key", "code", "cost", "hour", "number", "time")

    def __init__(self, access_key: str, code: VerdictCode, hour: datetime) -> None:
        self.access_key = access_key
        self.code = code
        self.hour = hour
        self.number = 0
        self.cost = 0
        self.time = 0.0
        """When the newest was, in this process's seconds."""


class Report(NamedTuple):
    """What is reported at once, and the id that it counts once under."""

    batch_id: str
    rows: tuple[UsageRow, ...]


class UsageBuffer:
    """Counts. Any thread may count; one reports."""

    def __init__(self) -> None:
        self._lost = 0
        self._lock = Lock()
        self._counted: list[Count] = []
        self.kept: deque[Report] = deque()
        """What was to be reported before, and was not yet, oldest first."""

    def add(self, count: Count, cost: int, at: float) -> None:
        """Count one verification."""
        with self._lock:
            if not count.number:
                self._counted.append(count)
            count.number += 1
            count.cost += cost
            count.time = at

    def reports(self, moment: Callable[[float], datetime]) -> deque[Report]:
        """Return what is to be reported, oldest first; the caller pops what he has reported.

        `moment` turns this process's seconds into the server's time.
        """
        rows = self._taken(moment)
        fresh = [
            Report(str(uuid.uuid4()), tuple(rows[first : first + ROWS_MAX]))
            for first in range(0, len(rows), ROWS_MAX)
        ]
        while self.kept and len(self.kept) + len(fresh) > BATCHES_MAX:
            self.give_up()
        self.kept += fresh  # all of them, however many keys there are: nobody has refused them
        return self.kept

    def give_up(self) -> None:
        """Report the oldest to nobody."""
        self._lost += sum(row.count for row in self.kept.popleft().rows)

    def lost(self) -> int:
        """Return how many verifications nobody could be told of since this was last asked."""
        lost, self._lost = self._lost, 0
        return lost

    def _taken(self, moment: Callable[[float], datetime]) -> list[UsageRow]:
        with self._lock:
            counted, self._counted = self._counted, []
        sums: dict[tuple[str, VerdictCode, datetime], tuple[int, int, float]] = {}
        for first in range(0, len(counted), _TAKEN_AT_ONCE):
            with self._lock:
                for count in counted[first : first + _TAKEN_AT_ONCE]:
                    name = (count.access_key, count.code, count.hour)
                    number, cost, time = sums.get(name, (0, 0, 0.0))
                    sums[name] = (
                        number + count.number,
                        cost + count.cost,
                        max(time, count.time),
                    )
                    count.number = count.cost = 0
        return [
            UsageRow(
                access_key=access_key,
                verdict=code,
                bucket_time=hour,
                count=number,
                cost=cost,
                last_used_time=min(moment(time), hour + _HOUR - _TICK),
            )
            for (access_key, code, hour), (number, cost, time) in sums.items()
        ]
