"""The time of a store, shared by all servers that use it.

Servers on PostgreSQL use the database's time, so a server's wrong clock affects no record's date,
no key's expiry and no limit's window. A SQLite database uses the clock of its one machine.
"""

from __future__ import annotations

from typing import Final

import structlog

from keyauthority.clock import ReferenceClock, SystemClock
from keyauthority_server.store.interface import Store
from keyauthority_server.store.snapshots import FreshnessProver


async def clock_of(store: Store, *, proven: bool = True) -> SystemClock:
    """Return a clock that never shows a time before the store's newest committed time.

    Unless `proven`, that bound is missing: only a recognised audit key can prove it.
    """
    newest = await store.newest_time() if proven else None
    if isinstance(store, FreshnessProver):
        return ReferenceClock(store.reference, newest)
    return SystemClock(newest)


DIFFERENCE_SECONDS: Final = 2.0  # a machine with NTP is accurate to some milliseconds
SILENCE_SECONDS: Final = 86_400.0  # a store rarely has no change or verification for this long

_log = structlog.get_logger("keyauthority_server.clock")


class ClockWatch:
    """Logs differences between the store's time and the machine's clock, once per occurrence."""

    def __init__(self, clock: SystemClock) -> None:
        self._clock = clock
        self._differs = False

    def look(self) -> float:
        """Compare both; return the seconds by which the store's time is ahead."""
        ahead = self._clock.ahead
        differs = abs(ahead) > DIFFERENCE_SECONDS
        if differs and not self._differs:
            _log.warning("clock_differs", store_ahead_seconds=round(ahead, 1), hint=_DIFFERS)
        elif self._differs and not differs:
            _log.info("clock_agrees", store_ahead_seconds=round(ahead, 1))
        self._differs = differs
        return ahead


async def report_silence(store: Store) -> None:
    """Log the age of the store's newest time if it is far older than the clock."""
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
