"""The counters of limits, in the same database.

Their rows are locked in the order of their names, so two servers never wait for each other. Their
commits wait for the disk of the primary, and for no standby: a failover may forget the last of
them, which the contract allows a loss of power.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import structlog

from keyauthority_server.store.batching.batch_worker import BatchWorker
from keyauthority_server.store.batching.coalescer import (
    Asking,
    Coalescer,
    Turn,
    tell,
    tell_failure,
    waiting,
)
from keyauthority_server.store.counters import (
    COUNTERS_CLOSED,
    HANDED_OVER,
    NOT_DRAWN,
    CounterBatch,
    Drawn,
    Spend,
)
from keyauthority_server.store.interface import StoreError, StoreUnavailable
from keyauthority_server.store.postgres.connection import ConnectionLost, Patience, parameters
from keyauthority_server.store.postgres.rollback_guard import RollbackGuard
from keyauthority_server.store.postgres.rows import PostgresRows

DRAW_SECONDS: Final = 2.0  # many times what a queue of draws takes
CLOSE_SECONDS: Final = 10.0  # what was handed in is answered by then, one way or the other
GROUP_MAX: Final = 256  # draws
PATIENCE: Final = Patience(
    statement=DRAW_SECONDS + 1,
    server=0,
    lock=DRAW_SECONDS - 0.5,
    idle=DRAW_SECONDS,
    replicated=False,
)

_LOCK: Final = (
    "SELECT name, start, used FROM counter"
    " WHERE name IN (SELECT value FROM unnest(?::text[]) AS asked (value))"
    " ORDER BY name FOR UPDATE"
)
# A counter that nobody has drawn has no row that could be locked. It gets one in a transaction of
# its own: to make rows while others are held would be another order.
_MAKE: Final = (
    "INSERT INTO counter (name, start, used)"
    " SELECT value, 0, 0 FROM unnest(?::text[]) AS asked (value) ORDER BY value"
    " ON CONFLICT (name) DO NOTHING"
)
_OPEN: Final = f"LOCK TABLE counter IN ROW EXCLUSIVE MODE; {COUNTERS_CLOSED}"
HOLD_UP_DRAWS: Final = "LOCK TABLE counter IN SHARE ROW EXCLUSIVE MODE"
"""The first statement of a transaction that waits for all draws, and that they wait for."""

_log = structlog.get_logger(__name__)

Caller = Asking[Sequence[Spend], Sequence[Drawn]]
Drawing = Turn[Sequence[Spend], Sequence[Drawn]]


def open_counters(url: str) -> PostgresCounters:
    """Open the counters in the database, which `migrate` has made.

    Raises StoreRefused, with one line that says why.
    """
    witness = RollbackGuard()

    rows = PostgresRows(parameters(url), PATIENCE, witness.admit)
    try:
        rows.ready()
    except StoreUnavailable as error:  # only keys with limits need it, and it is tried again then
        _log.warning("counters_unavailable", error=str(error))
    return PostgresCounters(rows)


class PostgresCounters:
    """`counters.Counters` on PostgreSQL. Make it with `open_counters`; use it from one loop."""

    def __init__(self, rows: PostgresRows) -> None:
        self._thread: BatchWorker[Drawing] = BatchWorker(
            _Draws(rows), name="counters", most=GROUP_MAX
        )
        self._turns: Coalescer[Sequence[Spend], Sequence[Drawn]] = Coalescer(
            self._thread, seconds=DRAW_SECONDS, late=NOT_DRAWN
        )

    async def draw(self, draws: Sequence[Spend]) -> Sequence[Drawn]:
        """Make all draws in one transaction, and commit it; see `counters`."""
        return await self._turns.ask(draws, len(draws))

    async def close(self) -> None:
        """Finish what was handed in, then let go of everything."""
        self._turns.hand_in()
        self._thread.close()
        await asyncio.wait((asyncio.wrap_future(self._thread.stopped),), timeout=CLOSE_SECONDS)


class _Draws:
    """The job of the thread that draws."""

    def __init__(self, rows: PostgresRows) -> None:
        self._rows = rows

    def serve(self, turns: list[Drawing]) -> None:
        """Draw for all callers who still wait; on a new connection if one was lost in time."""
        callers = waiting(turns)
        if not callers:
            return
        try:
            try:
                drawn = self._drawn(turns)
            except ConnectionLost:
                drawn = self._drawn(turns)
            self._rows.commit()
        except StoreError as error:
            self._rows.roll_back()
            _log.error("store_draw_failed", error=str(error))
            tell_failure(callers, StoreUnavailable(f"the counters cannot be drawn: {error}"))
        except Exception as error:  # noqa: BLE001  # the thread must outlive what nobody foresaw
            _log.critical("counters_failed", error=f"{type(error).__name__}: {error}")
            self._rows.drop()
            tell_failure(callers, StoreUnavailable("the counters failed"))
        else:
            tell([one for one, _ in drawn], [answer for _, answer in drawn])

    def end(self) -> None:
        """Let go of the connection."""
        self._rows.drop()

    def _drawn(self, turns: Sequence[Drawing]) -> list[tuple[Caller, Sequence[Drawn]]]:
        """Begin a transaction, and draw in it for those who wait when it has the counters."""
        tally = CounterBatch(self._rows, self._locked(_taken(waiting(turns))))
        drawn: list[tuple[Caller, Sequence[Drawn]]] = [
            (one, [tally.draw(draw) for draw in one.question]) for one in waiting(turns)
        ]
        tally.write()
        return drawn

    def _locked(self, names: list[str]) -> dict[str, tuple[int, int]]:
        """Begin a transaction that holds these counters; return how they stand."""
        rows = self._rows
        while True:
            if rows.begin(_OPEN) != (0,):
                raise StoreUnavailable(HANDED_OVER)
            stored = {name: (start, used) for name, start, used in rows.each(_LOCK, (names,))}
            missing = [name for name in names if name not in stored]
            if not missing:
                return stored
            rows.roll_back()
            rows.begin()
            rows.run(_MAKE, (missing,))
            rows.commit()


def _taken(callers: Sequence[Caller]) -> list[str]:
    """Return the counters that may be changed, in the order that all servers lock them in."""
    draws = (draw for one in callers for draw in one.question if draw.take and draw.cost)
    return sorted({one.name for draw in draws for one in draw.counters})
