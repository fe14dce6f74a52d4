"""The steps that make the schema: forward only, in order, the same for both engines.

A step that has landed is never edited. What an engine spells in its own way is a word of its
`Dialect`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

from keyauthority_server.store.migrations import (
    c0001_counters,
    c0002_counter_state,
    m0001_log_of_changes,
    m0002_requests,
    m0003_usage,
    m0004_audit,
    m0005_peppers,
    m0006_heartbeat,
    m0007_newest_entries,
    m0008_handover,
    m0009_sealed_time,
)


class Run(Protocol):
    """Runs one statement."""

    def __call__(self, statement: str, values: Sequence[object] = ()) -> object:
        """Run it; parameters are written `?`."""
        ...


class Dialect(NamedTuple):
    """An engine's words."""

    integer: str
    """A signed integer of 64 bits."""
    bytes: str
    text: str
    """Text that is compared byte by byte."""
    serial: str
    """A primary key of integers that the engine gives itself."""
    table: str
    """What ends the definition of a table."""
    keyed_table: str
    """What ends the definition of a table whose rows lie in the order of a text primary key."""
    append_only: Callable[[str], Sequence[str]]
    """Statements that make a table refuse UPDATE and DELETE."""


class Step(NamedTuple):
    """One migration: all of it is done, or none."""

    name: str
    migrate: Callable[[Run, Dialect], None]


STEPS: Final = (
    Step("0001_log_of_changes", m0001_log_of_changes.migrate),
    Step("0002_requests", m0002_requests.migrate),
    Step("0003_usage", m0003_usage.migrate),
    Step("0004_audit", m0004_audit.migrate),
    Step("0005_peppers", m0005_peppers.migrate),
    Step("0006_heartbeat", m0006_heartbeat.migrate),
    Step("0007_newest_entries", m0007_newest_entries.migrate),
    Step("0008_handover", m0008_handover.migrate),
    Step("0009_sealed_time", m0009_sealed_time.migrate),
)
COUNTER_STEPS: Final = (
    Step("0001_counters", c0001_counters.migrate),
    Step("0002_counter_state", c0002_counter_state.migrate),
)
"""The same for the counters of limits, which an engine may keep apart."""
