"""Metering: verifications counted in memory, and flushed to the store each second.

A killed process loses the counts since its last flush: at most one second, while the store answers.
A flushed batch counts once, for any number of retries.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final, NamedTuple

import structlog

from keyauthority.model import Key, UsageRow, VerdictCode
from keyauthority_server.store.interface import Store, StoreError, Transaction

FLUSH_SECONDS: Final = 1.0
BATCH_ROWS: Final = 200  # in one transaction, which a RevokeKey waits for: some 5 to 10 ms
COUNTS_EARLY: Final = 10_000  # counts that trigger a flush before the second ends
COUNTS_MAX: Final = 65_536  # some 25 MB; further ones are lost, and only while the store fails
BATCH_ID_LIFETIME: Final = timedelta(hours=24)  # how long a repeated batch is recognised

_HOUR: Final = timedelta(hours=1)
_NEVER: Final = datetime.min.replace(tzinfo=UTC)

_log = structlog.get_logger(__name__)


class Meter:
    """Counts verifications. Not thread-safe."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._counts: dict[tuple[str, VerdictCode, datetime], _Count] = {}
        self._hour = self._next_hour = _NEVER
        self._early = asyncio.Event()
        self._uncounted = 0
        self._batches: deque[_Batch] = deque()
        self._previous = ""

    def count(self, key: Key, code: VerdictCode, cost: int, now: datetime) -> None:
        """Count one verification with a correct token; a denied one costs nothing."""
        if now >= self._next_hour:
            self._hour = now.replace(minute=0, second=0, microsecond=0)
            self._next_hour = self._hour + _HOUR
        name = (key.access_key, code, self._hour)
        count = self._counts.get(name)
        if count is None:
            if len(self._counts) >= COUNTS_MAX:
                self._uncounted += 1
                return
            count = self._counts[name] = _Count(key.project_id)
            if len(self._counts) == COUNTS_EARLY:
                self._early.set()
        count.number += 1
        count.last_used_time = now
        if code is VerdictCode.VALID:
            count.cost += cost

    async def run(self) -> None:
        """Flush each second, until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._early.wait(), FLUSH_SECONDS)
            self._early.clear()
            await self.flush()

    async def flush(self) -> None:
        """Write the counts to the store; on failure keep them for the next flush."""
        if self._uncounted:
            _log.error("usage_lost", verifications=self._uncounted)
            self._uncounted = 0
        if not self._batches:
            self._batches.extend(self._taken())
        try:
            while self._batches:
                batch = self._batches[0]
                await self._store.write(partial(_count_batch, batch, self._previous))
                self._previous = batch.batch_id
                self._batches.popleft()
        except StoreError as failure:
            _log.warning("usage_kept_back", batches=len(self._batches), failure=str(failure))

    def _taken(self) -> Iterator[_Batch]:
        counts = list(self._counts.items())
        self._counts = {}
        for first in range(0, len(counts), BATCH_ROWS):
            rows = tuple(
                UsageRow(
                    project_id=count.project_id,
                    access_key=access_key,
                    verdict=code,
                    bucket_time=hour,
                    count=count.number,
                    cost=count.cost,
                    last_used_time=count.last_used_time,
                )
                for (access_key, code, hour), count in counts[first : first + BATCH_ROWS]
            )
            yield _Batch(str(uuid.uuid4()), rows)


@asynccontextmanager
async def metering(store: Store) -> AsyncIterator[Meter]:
    """Yield a meter that flushes each second, and the rest when the context ends."""
    meter = Meter(store)
    flushing = asyncio.create_task(meter.run())
    try:
        yield meter
    finally:
        flushing.cancel()  # its unfinished batch is flushed again below, and counts once
        with contextlib.suppress(asyncio.CancelledError):
            await flushing
        await meter.flush()
        await meter.flush()  # the first may have flushed only older batches


class _Count:
    """The verifications of one key with one verdict in one hour."""

    __slots__ = ("cost", "last_used_time", "number", "project_id")

    def __init__(self, project_id: str) -> None:
        self.project_id = project_id
        self.number = 0
        self.cost = 0
        self.last_used_time = _NEVER


class _Batch(NamedTuple):
    """The rows of one transaction, and the id under which they count once."""

    batch_id: str
    rows: tuple[UsageRow, ...]


def _count_batch(batch: _Batch, previous: str, transaction: Transaction) -> None:
    """Count a batch; the previous one is certainly counted, so its id is deleted."""
    now = max(row.last_used_time for row in batch.rows)
    transaction.forget_batch(previous)
    transaction.count_usage(batch.batch_id, batch.rows, now, now + BATCH_ID_LIFETIME)
