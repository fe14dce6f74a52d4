"""Counts of local verifications, summed until they are reported."""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from threading import Lock
from typing import Final, NamedTuple

from keyauthority.model import CANARY_LABEL, Facts, Key, UsageRow, VerdictCode
from keyauthority.permissions import AskedPermissions
from keyauthority.requests import KeyObservation

ROWS_MAX: Final = 1_000  # rows and observations of one report, the limits of ReportUsage
CHARACTERS_MAX: Final = 1 << 20  # of permissions in one report, whose message may have 4 MiB
BATCHES_MAX: Final = 100  # reports kept while the authority is unreachable; older ones are lost
SUMMED_AT_ONCE: Final = 16  # verifications: memory for their facts, some 4 KB
_TAKEN_AT_ONCE: Final = 1_000  # counts per hold of the lock: blocks `add` for less than 1 ms

_HOUR: Final = timedelta(hours=1)
_TICK: Final = timedelta(microseconds=1)
_NO_PEER: Final = (float("-inf"), "")
_ENDED: Final = frozenset({VerdictCode.REVOKED, VerdictCode.SUPERSEDED, VerdictCode.EXPIRED})


class Count(AskedPermissions):
    """Verifications of one key with one verdict in one hour, since the last report."""

    __slots__ = ("code", "cost", "hour", "is_sighted", "key", "number", "peer", "time")

    def __init__(self, key: Key, code: VerdictCode, hour: datetime) -> None:
        super().__init__()
        self.key = key
        self.code = code
        self.hour = hour
        self.number = 0
        self.cost = 0
        self.time = 0.0
        """Time of the newest verification, in seconds of `monotonic`."""
        self.is_sighted = (
            code in _ENDED or key.supersede_time is not None or CANARY_LABEL in key.labels
        )
        self.peer = ""
        """The `client_ip` of that verification, if an advisory needs it."""


class Report(NamedTuple):
    """Rows and observations of one ReportUsage call, and its idempotency ID."""

    batch_id: str
    rows: tuple[UsageRow, ...]
    observations: tuple[KeyObservation, ...]


class UsageBuffer:
    """Counters of verifications. Any thread may add; one thread reports."""

    def __init__(self) -> None:
        self._lost = 0
        self._lock = Lock()
        self._added: deque[tuple[Count, int, float, Facts]] = deque()
        """Verifications that are not summed yet: a thread appends without the lock."""
        self._counted: list[Count] = []
        self.pending: deque[Report] = deque()
        """Reports that the authority has not accepted yet, oldest first."""

    def add(self, count: Count, cost: int, now: float, facts: Facts) -> None:
        """Count one verification. Some are summed at once, which takes less time."""
        added = self._added
        added.append((count, cost, now, facts))
        if len(added) >= SUMMED_AT_ONCE:
            self._sum()

    def _sum(self) -> None:
        with self._lock:
            added, counted = self._added, self._counted
            for _ in range(len(added)):
                count, cost, now, facts = added.popleft()
                if not count.number:
                    counted.append(count)
                count.number += 1
                count.cost += cost
                count.time = now
                if count.is_sighted:
                    count.peer = facts.client_ip
                asked = facts.permissions
                if asked != count.asked and asked not in count.others:
                    count.note(asked, count.key.permissions)

    def reports(self, to_server_time: Callable[[float], datetime]) -> deque[Report]:
        """Return the pending reports, oldest first; the caller pops each one it has sent.

        `to_server_time` converts seconds of `monotonic` to the server's time.
        """
        rows, observed = self._take(to_server_time)
        fresh = list(_reports(rows, observed))
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

    def _take(
        self, to_server_time: Callable[[float], datetime]
    ) -> tuple[list[UsageRow], dict[str, KeyObservation]]:
        """Return the counts since the last call, and what was observed of their keys."""
        self._sum()
        with self._lock:
            counted, self._counted = self._counted, []
        sums: dict[tuple[str, VerdictCode, datetime], tuple[int, int, float]] = {}
        asked: list[tuple[Key, AskedPermissions]] = []
        peers: dict[str, tuple[float, str]] = {}
        for first in range(0, len(counted), _TAKEN_AT_ONCE):
            with self._lock:
                for count in counted[first : first + _TAKEN_AT_ONCE]:
                    name = count.key.access_key
                    row_key = (name, count.code, count.hour)
                    number, cost, time = sums.get(row_key, (0, 0, 0.0))
                    sums[row_key] = (
                        number + count.number,
                        cost + count.cost,
                        max(time, count.time),
                    )
                    if count.is_sighted:
                        peers[name] = max(peers.get(name, _NO_PEER), (count.time, count.peer))
                    if count.asked:
                        asked.append((count.key, count.take()))
                    count.number = count.cost = 0
        rows = [
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
        return rows, _observations(asked, peers)


def _reports(rows: Iterable[UsageRow], observed: dict[str, KeyObservation]) -> Iterator[Report]:
    """Yield reports within the limits of ReportUsage."""
    some, observations, characters = list[UsageRow](), list[KeyObservation](), 0
    for row in rows:
        if len(some) == ROWS_MAX or characters > CHARACTERS_MAX:
            yield Report(str(uuid.uuid4()), tuple(some), tuple(observations))
            some, observations, characters = [], [], 0
        some.append(row)
        observation = observed.pop(row.access_key, None)
        if observation is not None:
            observations.append(observation)
            characters += sum(map(len, observation.permissions))
    if some:
        yield Report(str(uuid.uuid4()), tuple(some), tuple(observations))


def _observations(
    asked: Iterable[tuple[Key, AskedPermissions]], peers: Mapping[str, tuple[float, str]]
) -> dict[str, KeyObservation]:
    """Return the permissions that each key made use of, and the address that it was about."""
    used: dict[str, set[str]] = {name: set() for name in peers}
    for key, permissions in asked:
        permissions.resolve(key.permissions)
        if permissions.used:
            used.setdefault(key.access_key, set()).update(permissions.used)
    return {
        name: KeyObservation(
            access_key=name,
            permissions=tuple(sorted(grants)),
            last_peer=peers.get(name, _NO_PEER)[1],
        )
        for name, grants in used.items()
    }
