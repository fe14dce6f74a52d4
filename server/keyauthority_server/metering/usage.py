"""Metering: verifications counted in memory, and flushed to the store each second.

A killed process loses the counts since its last flush: at most one second, while the store answers
and fewer than `ROWS_A_SECOND` keys are in use, else up to five. A flushed batch counts once, for
any number of retries.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from functools import partial
from operator import attrgetter
from typing import Final, NamedTuple

import structlog

from keyauthority.clock import LONG_AGO, monotonic
from keyauthority.model import NO_FACTS, Facts, Key, UsageRow, VerdictCode
from keyauthority.permissions import AskedPermissions, narrowest
from keyauthority_server.background import running
from keyauthority_server.metering.observing import is_canary, is_sighted, sightings
from keyauthority_server.store.interface import Store, StoreError, Transaction
from keyauthority_server.store.sql.queries.usage import delete_usage_batch
from keyauthority_server.store.types import Observations, PermissionUse, Sighting

FLUSH_SECONDS: Final = 1.0
FLUSH_SECONDS_MAX: Final = 5.0
PAUSE_SECONDS: Final = FLUSH_SECONDS / 5  # at least, between two flushes
ROWS_A_SECOND: Final = 3_000  # some 16 µs of processor time each: 5 % of a core
USES_SECONDS: Final = 0.002  # without a break, to find the uses of permissions
BATCH_ROWS: Final = 200  # in one transaction, which a RevokeKey waits for: some 5 to 10 ms
COUNTS_EARLY: Final = 32_768  # counts that trigger a flush before the second ends
COUNTS_MAX: Final = 65_536  # some 25 MB; further ones wait for a flush
COUNTS_LOST: Final = 2 * COUNTS_MAX  # further ones are lost; from COUNTS_MAX on if the store fails
QUESTIONS_KNOWN: Final = 65_536  # answered today by stored uses of permissions; some 15 MB
BATCH_ID_LIFETIME: Final = timedelta(hours=24)  # how long a repeated batch is recognised

_Question = tuple[str, int, str, int]
"""A key, the revision of its record, a permission that was asked for, and the day's number."""

_HOUR: Final = timedelta(hours=1)

_log = structlog.get_logger(__name__)


class Meter:
    """Counts verifications. Not thread-safe."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._counts: dict[str | tuple[str, VerdictCode], _Count] = {}
        """The counts of the current hour: VALID by access key alone, which is faster."""
        self._past: list[_Count] = []
        self._hour = self._next_hour = LONG_AGO
        self._early = asyncio.Event()
        self.is_full = False
        """True if a verification must await `room` before it is counted."""
        self._has_room = asyncio.Event()
        self._fails = False
        self._uncounted = 0
        self._batches: deque[_Batch] = deque()
        self._permission_days = _PermissionDays()
        self._previous = ""

    def count(
        self,
        key: Key,
        code: VerdictCode,
        cost: int,
        now: datetime,
        facts: Facts = NO_FACTS,
        peer: str = "",
    ) -> None:
        """Count one verification with a correct token; a denied one costs nothing.

        `peer` is the address of the caller. Facts and peer are observed: see `observing`.
        """
        if now >= self._next_hour:
            self._past += self._counts.values()
            self._counts = {}
            self._hour = now.replace(minute=0, second=0, microsecond=0)
            self._next_hour = self._hour + _HOUR
        name = key.access_key if code is VerdictCode.VALID else (key.access_key, code)
        count = self._counts.get(name)
        if count is None:
            counts = len(self._counts) + len(self._past)
            if counts >= (COUNTS_MAX if self._fails else COUNTS_LOST):
                self._uncounted += 1
                return
            count = self._counts[name] = _Count(key, code, self._hour, now)
            if counts + 1 == COUNTS_EARLY:
                self._early.set()
            if counts + 1 >= COUNTS_MAX and not self._fails:
                self.is_full = True
                self._has_room.clear()
        if count.key is not key:
            count = self._renewed(name, count, key, now)
        count.number += 1
        count.last_used_time = now
        if count.is_sighted:  # else the address of the last call would be kept in memory
            count.peer = facts.client_ip or peer
        asked = facts.permissions
        if asked != count.asked and key.permissions and asked not in count.others:
            count.note(asked, key.permissions)
        if code is VerdictCode.VALID:
            count.cost += cost

    def _renewed(
        self, name: str | tuple[str, VerdictCode], count: _Count, key: Key, now: datetime
    ) -> _Count:
        """Return the count to use from another record of the key on.

        Presentations before a change that makes a key one to be observed are counted apart.
        """
        old = count.key
        if (old.supersede_time, is_canary(old)) == (key.supersede_time, is_canary(key)):
            count.renew(key)
            return count
        self._past.append(count)
        renewed = self._counts[name] = _Count(key, count.code, count.hour, now)
        return renewed

    async def room(self) -> None:
        """Wait until further verifications can be counted, or the store fails.

        So keys are verified as fast as the store takes their counts, if they are many.
        """
        while self.is_full:
            self._early.set()
            await self._has_room.wait()

    async def run(self) -> None:
        """Flush each second, until cancelled; less often if a flush writes many rows."""
        seconds = FLUSH_SECONDS
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._early.wait(), seconds)
            self._early.clear()
            began = monotonic()
            interval = flush_interval(await self.flush())
            seconds = max(interval - (monotonic() - began), PAUSE_SECONDS)

    async def flush(self) -> int:
        """Write the counts to the store, and return their number.

        On failure they are kept for the next flush.
        """
        if self._uncounted:
            _log.error("usage_lost", verifications=self._uncounted)
            self._uncounted = 0
        if not self._batches:
            self._batches.extend(self._taken())
        rows = 0
        try:
            while self._batches:
                batch = self._batches[0]
                uses, questions = await self._permission_days.uses(batch.counts)
                work = partial(_count_batch, batch, self._previous, uses)
                await self._store.write(work)
                self._permission_days.stored(questions)
                self._previous = batch.batch_id
                self._batches.popleft()
                rows += len(batch.counts)
            self._fails = False
        except StoreError as failure:
            self._fails = True
            self._make_room()  # verdicts do not depend on a store that takes no counts
            _log.warning("usage_kept_back", batches=len(self._batches), failure=str(failure))
        return rows

    def _taken(self) -> Iterator[_Batch]:
        """Take the counts in the order of their keys, which is that of tables and indexes.

        So a transaction writes few pages, each with many of its rows.
        """
        counts = sorted((*self._past, *self._counts.values()), key=attrgetter("access_key"))
        self._counts, self._past = {}, []
        self._make_room()
        for first in range(0, len(counts), BATCH_ROWS):
            yield _Batch(str(uuid.uuid4()), counts[first : first + BATCH_ROWS])

    def _make_room(self) -> None:
        self.is_full = False
        self._has_room.set()


def flush_interval(rows: int) -> float:
    """Return the seconds until the next flush after one of so many rows."""
    return min(max(rows / ROWS_A_SECOND, FLUSH_SECONDS), FLUSH_SECONDS_MAX)


@asynccontextmanager
async def metering(store: Store) -> AsyncIterator[Meter]:
    """Yield a meter that flushes each second, and the rest when the context ends."""
    meter = Meter(store)
    try:
        async with running(meter.run()):
            yield meter
    finally:  # a batch whose flush was cancelled is flushed again, and counts once
        await meter.flush()
        await meter.flush()  # the first may have flushed only older batches


class _Count(AskedPermissions):
    """The verifications of one key with one verdict in one hour."""

    __slots__ = (
        *("access_key", "code", "cost", "first_used_time", "hour", "is_sighted", "key"),
        *("last_used_time", "number", "peer"),
    )

    def __init__(self, key: Key, code: VerdictCode, hour: datetime, now: datetime) -> None:
        super().__init__()
        self.access_key = key.access_key
        self.key = key
        """The newest record that was verified."""
        self.code = code
        self.hour = hour
        self.number = 0
        self.cost = 0
        self.first_used_time = self.last_used_time = now
        self.is_sighted = is_sighted(key, code)
        self.peer = ""
        """The address that the newest verification is about, if it is sighted."""

    def renew(self, key: Key) -> None:
        """Go on with a newer record of the key."""
        if key.permissions != self.key.permissions:
            self.resolve(self.key.permissions)
        self.key = key

    def sightings(self) -> Iterator[Sighting]:
        """Yield the sightings of the verifications."""
        times = (self.first_used_time, self.last_used_time)
        return sightings(self.key, self.code, self.number, times, self.peer)


class _PermissionDays:
    """Finds the uses of permissions that are not stored yet: most recur all day."""

    def __init__(self) -> None:
        self._stored: set[_Question] = set()

    async def uses(self, counts: Sequence[_Count]) -> tuple[list[PermissionUse], set[_Question]]:
        """Return the uses to store, in order, and the questions that they answer.

        Calls are served meanwhile: a key may be asked for hundreds of permissions.
        """
        started = monotonic()
        uses: set[PermissionUse] = set()
        questions: set[_Question] = set()
        for count in counts:
            if not (count.asked or count.used):
                continue
            if monotonic() - started > USES_SECONDS:
                await asyncio.sleep(0)
                started = monotonic()
            name, revision = count.access_key, count.key.revision
            day = count.hour.toordinal()
            grants = set(count.used)
            for permission in count.permissions():
                question = (name, revision, permission, day)
                if question not in self._stored:
                    questions.add(question)
                    grants.update(narrowest(count.key.permissions, permission))
            if grants:
                start = count.hour.replace(hour=0)
                uses.update(PermissionUse(name, grant, start) for grant in grants)
        return sorted(uses), questions

    def stored(self, questions: set[_Question]) -> None:
        """Remember the questions whose uses are stored; they begin again if they are too many."""
        if len(self._stored) + len(questions) > QUESTIONS_KNOWN:
            self._stored.clear()
        self._stored |= questions


class _Batch(NamedTuple):
    """The counts of one transaction, and the id under which they count once."""

    batch_id: str
    counts: Sequence[_Count]


def _count_batch(
    batch: _Batch, previous: str, uses: Sequence[PermissionUse], transaction: Transaction
) -> None:
    """Count a batch; the previous one is certainly counted, so its id is deleted."""
    rows = [
        UsageRow(
            project_id=count.key.project_id,
            access_key=count.access_key,
            verdict=count.code,
            bucket_time=count.hour,
            count=count.number,
            cost=count.cost,
            last_used_time=count.last_used_time,
        )
        for count in batch.counts
    ]
    sighted = [
        sighting for count in batch.counts if count.is_sighted for sighting in count.sightings()
    ]
    now = max(row.last_used_time for row in rows)
    transaction.bookkeep(delete_usage_batch, previous)
    transaction.count_usage(
        batch.batch_id, rows, now, now + BATCH_ID_LIFETIME, Observations(sighted, uses)
    )
