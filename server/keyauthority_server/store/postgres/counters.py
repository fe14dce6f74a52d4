"""Counters of limits, in the same database.

Their rows are locked in the order of their names, so servers never deadlock. Their commits wait for
the disk of the primary, not for a standby: a failover may lose the last ones, which the contract
allows after a loss of power.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import structlog

from keyauthority_server.store.batching.batch_worker import BatchWorker
from keyauthority_server.store.batching.coalescer import (
    CallBatch,
    Coalescer,
    PendingCall,
    fail,
    pending,
    resolve,
)
from keyauthority_server.store.counters import (
    COUNTERS_CLOSED,
    HANDED_OVER,
    NOT_SPENT,
    CounterBatch,
    CountersHandedOver,
    Spend,
    SpendResult,
    spend_failure,
)
from keyauthority_server.store.interface import StoreError, StoreUnavailable
from keyauthority_server.store.postgres.connection import ConnectionLost, Patience, parameters
from keyauthority_server.store.postgres.rollback_guard import RollbackGuard
from keyauthority_server.store.postgres.rows import PostgresRows

SPEND_SECONDS: Final = 2.0  # many times the duration of a queue of spends
CLOSE_SECONDS: Final = 10.0  # more than every submitted spend needs to succeed or fail
GROUP_MAX: Final = 256  # spends
PATIENCE: Final = Patience(
    statement=SPEND_SECONDS + 1,
    server=0,
    lock=SPEND_SECONDS - 0.5,
    idle=SPEND_SECONDS,
    replicated=False,
)

_LOCK: Final = (
    "SELECT name, start, used FROM counter WHERE name = ANY(?::text[]) ORDER BY name FOR UPDATE"
)
# A new counter has no row to lock. A separate transaction creates it: creating rows while holding
# locks would break the locking order.
_MAKE: Final = (
    "INSERT INTO counter (name, start, used)"
    " SELECT value, 0, 0 FROM unnest(?::text[]) AS requested (value) ORDER BY value"
    " ON CONFLICT (name) DO NOTHING"
)
# A plan that was made for an empty table, and is kept, would read the whole table for each spend.
_OPEN: Final = (
    f"SET LOCAL enable_seqscan = off; LOCK TABLE counter IN ROW EXCLUSIVE MODE; {COUNTERS_CLOSED}"
)
EXCLUDE_SPENDS: Final = "LOCK TABLE counter IN SHARE ROW EXCLUSIVE MODE"
"""The first statement of a transaction that excludes all spends."""

_log = structlog.get_logger(__name__)

SpendCall = PendingCall[Sequence[Spend], Sequence[SpendResult]]
SpendBatch = CallBatch[Sequence[Spend], Sequence[SpendResult]]


def open_counters(url: str) -> PostgresCounters:
    """Open the counters in the database, which `migrate` has created.

    Raises StoreUnusable with a one-line reason.
    """
    guard = RollbackGuard()

    rows = PostgresRows(parameters(url), PATIENCE, guard.admit)
    try:
        rows.ready()
    except StoreUnavailable as error:  # only keys with limits need it, and each spend retries
        _log.warning("counters_unavailable", error=str(error))
    return PostgresCounters(rows)


class PostgresCounters:
    """`counters.Counters` on PostgreSQL. Open it with `open_counters`; use it from one loop."""

    def __init__(self, rows: PostgresRows) -> None:
        self._worker = _CounterWorker(rows)
        self._calls: Coalescer[Sequence[Spend], Sequence[SpendResult]] = Coalescer(
            self._worker.submit, seconds=SPEND_SECONDS, late=NOT_SPENT
        )

    async def spend(self, spends: Sequence[Spend]) -> Sequence[SpendResult]:
        """Make all spends in one transaction, and commit it; see `counters`."""
        return await self._calls.submit(spends, len(spends))

    def spend_now(self, spends: Sequence[Spend]) -> None:
        """Return None: each spend is a network round trip."""

    async def check(self) -> None:
        """Raise StoreUnavailable unless counters can be spent from now."""
        await self.spend(())

    async def close(self) -> None:
        """Finish the submitted spends, then release all resources."""
        self._calls.flush()
        self._worker.close()
        await asyncio.wait((asyncio.wrap_future(self._worker.stopped),), timeout=CLOSE_SECONDS)


class _CounterWorker(BatchWorker[SpendBatch]):
    """The thread that spends from the counters."""

    def __init__(self, rows: PostgresRows) -> None:
        self._rows = rows
        super().__init__(name="counters", most=GROUP_MAX)

    def serve(self, batches: list[SpendBatch]) -> Sequence[SpendBatch]:
        """Spend for all pending calls; retry once on a new connection if it was lost."""
        callers = pending(batches)
        if not callers:
            return ()
        try:
            try:
                results = self._spend(batches)
            except ConnectionLost:
                results = self._spend(batches)
            self._rows.commit()
        except StoreError as error:
            self._rows.roll_back()
            _log.error("store_draw_failed", error=str(error))
            fail(callers, spend_failure(error))
        else:
            resolve([call for call, _ in results], [answer for _, answer in results])
        return ()

    def fail(self, units: list[SpendBatch], error: Exception) -> None:
        """Fail the callers, and close the connection, whose state is unknown."""
        self._rows.drop()
        fail(pending(units), StoreUnavailable("the counters failed"))

    def end(self) -> None:
        """Close the connection."""
        self._rows.drop()

    def _spend(
        self, batches: Sequence[SpendBatch]
    ) -> list[tuple[SpendCall, Sequence[SpendResult]]]:
        """Begin a transaction, lock the counters, and spend for the calls then pending."""
        batch = CounterBatch(self._rows, self._locked(_changing(pending(batches))))
        results: list[tuple[SpendCall, Sequence[SpendResult]]] = [
            (call, [batch.spend(spend) for spend in call.question]) for call in pending(batches)
        ]
        batch.write()
        return results

    def _locked(self, names: list[str]) -> dict[str, tuple[int, int]]:
        """Begin a transaction that locks these counters; return their (start, used)."""
        rows = self._rows
        while True:
            if rows.begin(_OPEN) != (0,):
                raise CountersHandedOver(HANDED_OVER)
            stored = {name: (start, used) for name, start, used in rows.each(_LOCK, (names,))}
            missing = [name for name in names if name not in stored]
            if not missing:
                return stored
            rows.roll_back()
            rows.begin()
            rows.run(_MAKE, (missing,))
            rows.commit()


def _changing(callers: Sequence[SpendCall]) -> list[str]:
    """Return the counters that may change, in the locking order of all servers."""
    spends = (
        spend for call in callers for spend in call.question if not spend.dry_run and spend.cost
    )
    return sorted({counter.name for spend in spends for counter in spend.counters})
