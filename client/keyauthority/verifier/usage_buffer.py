"""Counts of local verifications, summed until they are reported."""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta
from threading import Lock
from typing import Final, NamedTuple

from keyauthority.model import UsageRow, VerdictCode

ROWS_MAX: Final = 1_000  # rows of one report, the limit of ReportUsage
BATCHES_MAX: Final = 100  # reports kept while the authority is unreachable; older ones are lost
_TAKEN_AT_ONCE: Final = 1_000  # counts per hold of the lock: blocks `add` for less than 1 ms

_HOUR: Final = timedelta(hours=1)
_TICK: Final = timedelta(microseconds=1)


class Count:
    """Verifications of one key with one verdict in one hour, since the last report."""

    __slots__ = ("access_key", "code", "cost", "hour", "number", "time")

    def __init__(self, access_key: str, code: VerdictCode, hour: datetime) -> None:
        self.access_key = access_key
        self.code = code
        self.hour = hour
        self.number = 0
        self.cost = 0
        self.time = 0.0
        """Time of the newest verification, in seconds of `monotonic`."""


class Report(NamedTuple):
    """Rows of one ReportUsage call, and its idempotency ID."""

    batch_id: str
    rows: tuple[UsageRow, ...]


class UsageBuffer:
    """Counters of verifications. Any thread may add; one thread reports."""

    def __init__(self) -> None:
        self._lost = 0
        self._lock = Lock()
        self._counted: list[Count] = []
        self.pending: deque[Report] = deque()
        """Reports that the authority has not accepted yet, oldest first."""

    def add(self, count: Count, cost: int, now: float) -> None:
        """Count one verification."""
        with self._lock:
            if not count.number:
                self._counted.append(count)
            count.number += 1
            count.cost += cost
            count.time = now

    def reports(self, to_server_time: Callable[[float], datetime]) -> deque[Report]:
        """Return the pending reports, oldest first; the caller pops each one it has sent.

        `to_server_time` converts seconds of `monotonic` to the server's time.
        """
        rows = self._take_rows(to_server_time)
        fresh = [
            Report(str(uuid.uuid4()), tuple(rows[first : first + ROWS_MAX]))
            for first in range(0, len(rows), ROWS_MAX)
        ]
        while self.pending and len(self.pending) + len(fresh) > BATCHES_MAX:
            self.drop_oldest()
        self.pending += fresh  # never dropped before a first attempt, regardless of their number
        return self.pending

    def drop_oldest(self) -> None:
        """Drop the oldest report and count its verifications as lost."""
        self._lost += sum(row.count for row in self.pending.popleft().rows)

    def lost(self) -> int:
        """Return the number of verifications lost since the last call."""
        lost, self._lost = self._lost, 0
        return lost

    def _take_rows(self, to_server_time: Callable[[float], datetime]) -> list[UsageRow]:
        with self._lock:
            counted, self._counted = self._counted, []
        sums: dict[tuple[str, VerdictCode, datetime], tuple[int, int, float]] = {}
        for first in range(0, len(counted), _TAKEN_AT_ONCE):
            with self._lock:
                for count in counted[first : first + _TAKEN_AT_ONCE]:
                    row_key = (count.access_key, count.code, count.hour)
                    number, cost, time = sums.get(row_key, (0, 0, 0.0))
                    sums[row_key] = (
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
                last_used_time=min(to_server_time(time), hour + _HOUR - _TICK),
            )
            for (access_key, code, hour), (number, cost, time) in sums.items()
        ]
