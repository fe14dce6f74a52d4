"""The log of denied mutations: collected in memory and written to the store each second.

Equal denials within a second become one record with a count; at most `RECORDS_MAX` different ones
are recorded, further ones are only counted. This bounds the writes, here and in the server's log,
that a denied caller can cause.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import Context, copy_context
from datetime import datetime
from typing import Final, NamedTuple

import structlog

from keyauthority_server.background import flushing
from keyauthority_server.config.callers import SAN_MAX
from keyauthority_server.store.interface import Store, StoreError
from keyauthority_server.store.sql.queries.denied_mutations import record_denials
from keyauthority_server.store.types import DeniedMutation

RECORDS_MAX: Final = 100  # different denials per flush and process: some 5 ms of the writer
TEXT_MAX: Final = SAN_MAX  # characters of each text: a certificate's name is the longest

_log = structlog.get_logger(__name__)


class DeniedCall(NamedTuple):
    """A denied call: its caller, method and target. Texts of any length, as received."""

    actor: str
    peer: str
    method: str
    reason: str
    project_id: str
    access_key: str


class DenialLog:
    """Collects denied mutations. Not thread-safe."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._pending: dict[DeniedCall, tuple[datetime, int, Context]] = {}
        """Time, number and context of equal calls; the newest one's context names its trace."""
        self._dropped = 0

    def note(self, call: DeniedCall, now: datetime) -> None:
        """Record one denied mutation; beyond `RECORDS_MAX`, only count it."""
        bounded = DeniedCall(*map(_bounded, call))
        _, times, _ = self._pending.get(bounded, (now, 0, None))
        if not times and len(self._pending) >= RECORDS_MAX:
            self._dropped += 1
            return
        self._pending[bounded] = (now, times + 1, copy_context())

    async def flush(self) -> None:
        """Log the pending denials, then write them to the store; a failed write is only logged."""
        if self._dropped:
            _log.warning("refusals_dropped", mutations=self._dropped)
            self._dropped = 0
        if not self._pending:
            return
        pending, self._pending = self._pending, {}
        denied = [DeniedMutation(time, times, *call) for call, (time, times, _) in pending.items()]
        for mutation, (_, _, context) in zip(denied, pending.values(), strict=True):
            context.run(_warn_of, mutation)
        try:
            await self._store.write(
                lambda transaction: transaction.bookkeep(record_denials, denied)
            )
        except StoreError as failure:
            _log.warning("refusals_not_recorded", mutations=len(denied), failure=str(failure))


@asynccontextmanager
async def refusing(store: Store) -> AsyncIterator[DenialLog]:
    """Yield a DenialLog that is flushed each second and when the context ends."""
    denials = DenialLog(store)
    async with flushing(denials.flush):
        yield denials


def _bounded(text: str) -> str:
    """Return an untrusted text shortened to TEXT_MAX printable characters."""
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}"
        for character in text[:TEXT_MAX]
    )


def _warn_of(denied: DeniedMutation) -> None:
    fields = {name: value for name, value in denied._asdict().items() if value and name != "time"}
    _log.warning("mutation_refused", **fields)
