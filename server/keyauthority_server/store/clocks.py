"""The time of a store: one for all servers that use it.

Servers on one PostgreSQL take its time, so a server whose own clock is wrong dates no record, ends
no key and draws no window by it. A SQLite database has one machine, whose clock is its time.
"""

from __future__ import annotations

from typing import Final

import structlog

from keyauthority.clock import ReferenceClock, SystemClock
from keyauthority_server.store.interface import Store
from keyauthority_server.store.snapshots import FreshnessProver


async def clock_of(store: Store, *, proven: bool = True) -> SystemClock:
    """Return a clock that never tells a time before the newest that the store has committed.

    Unless `proven`, it does not know that one, which only a recognised audit key can prove.
    """
    newest = await store.newest_time() if proven else None
    if isinstance(store, FreshnessProver):
        return ReferenceClock(store.reference, newest)
    return SystemClock(newest)


DIFFERENCE_SECONDS: Final = 2.0  # a machine with NTP is right to some milliseconds
SILENCE_SECONDS: Final = 86_400.0  # a store without a change or verification for so long is rare

_log = structlog.get_logger("keyauthority_server.clock")


class ClockWatch:
    """Logs that the store's time and the machine's clock differ, once for each time they do."""

    def __init__(self, clock: SystemClock) -> None:
        self._clock = clock
        self._differs = False

    def look(self) -> float:
        """Compare them; return by how many seconds the store's time is ahead."""
        ahead = self._clock.ahead
        differs = abs(ahead) > DIFFERENCE_SECONDS
        if differs and not self._differs:
            _log.warning("clock_differs", store_ahead_seconds=round(ahead, 1), hint=_DIFFERS)
        elif self._differs and not differs:
            _log.info("clock_agrees", store_ahead_seconds=round(ahead, 1))
        self._differs = differs
        return ahead


async def report_silence(store: Store) -> None:
    """Log how far the newest time of the store is behind the clock that it is about to get."""
    newest = await store.newest_time()
    if newest is None:
        return
    silent = ((await clock_of(store)).now() - newest).total_seconds()
    if silent > SILENCE_SECONDS:
        _log.warning(
            "clock_ahead_of_store", seconds=round(silent), newest=str(newest), hint=_SILENT
        )


_DIFFERS: Final = "times are the store's; see docs/reliability.md, Clocks"
_SILENT: Final = (
    "expected if nothing was verified for so long; else stop before anything is written, and set "
    "the clock right; see docs/reliability.md, Clocks"
)
