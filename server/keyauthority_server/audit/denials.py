"""Denied mutations: noted in memory and handed to the store each second.

What is the same within a second is one record that says how often; of different ones no more than
`NOTED_MAX` are kept, the rest is counted. So whoever is refused again and again writes no more than
that, here and in the log.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Final, NamedTuple

import structlog

from keyauthority_server.config.callers import SAN_MAX
from keyauthority_server.store.interface import Store, StoreError
from keyauthority_server.store.types import DeniedMutation

FLUSH_SECONDS: Final = 1.0
NOTED_MAX: Final = 100  # different ones in a flush, and in a process: some 5 ms of the writer
TEXT_MAX: Final = SAN_MAX  # characters of each text: a certificate's name is the longest

_log = structlog.get_logger(__name__)


class DeniedCall(NamedTuple):
    """What was refused: who asked for what. Texts of any length, as they came."""

    actor: str
    peer: str
    method: str
    reason: str
    project_id: str
    access_key: str


class DenialLog:
    """Notes what was refused. Not for more than one thread."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._noted: dict[DeniedCall, tuple[datetime, int]] = {}
        self._dropped = 0

    def note(self, attempt: DeniedCall, now: datetime) -> None:
        """Note one refused mutation; one too many is counted only."""
        bounded = DeniedCall(*map(_bounded, attempt))
        _, times = self._noted.get(bounded, (now, 0))
        if not times and len(self._noted) >= NOTED_MAX:
            self._dropped += 1
            return
        self._noted[bounded] = (now, times + 1)

    async def run(self) -> None:
        """Flush each second, for ever."""
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            await self.flush()

    async def flush(self) -> None:
        """Log and hand over what is noted. What the store does not take is in the log only."""
        if self._dropped:
            _log.warning("refusals_dropped", mutations=self._dropped)
            self._dropped = 0
        if not self._noted:
            return
        refused = [DeniedMutation(time, times, *one) for one, (time, times) in self._noted.items()]
        self._noted = {}
        for one in refused:
            _log.warning("mutation_refused", **_told(one))
        try:
            await self._store.write(lambda transaction: transaction.record_refused(refused))
        except StoreError as failure:
            _log.warning("refusals_not_recorded", mutations=len(refused), failure=str(failure))


@asynccontextmanager
async def refusing(store: Store) -> AsyncIterator[DenialLog]:
    """Give what notes refusals, flushed each second and when the context ends."""
    refusals = DenialLog(store)
    flushing = asyncio.create_task(refusals.run())
    try:
        yield refusals
    finally:
        flushing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await flushing
        await refusals.flush()


def _bounded(text: str) -> str:
    """Return what can be kept and shown of a text that anybody may have written."""
    return "".join(
        one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text[:TEXT_MAX]
    )


def _told(refused: DeniedMutation) -> dict[str, str | int]:
    return {name: value for name, value in refused._asdict().items() if value and name != "time"}
