"""The contract of the counters of rate limits and quotas, and how both engines draw them.

They are drawn in transactions of their own, one after the other over all processes and servers.
That is bookkeeping: it makes no change and no revision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from keyauthority_server.store.sql.statements import Rows


class Counter(NamedTuple):
    """What a limit counts in: how much of it may be used in a window."""

    name: str
    """Names the counter; another limit has another name."""
    start: int
    """When the window begins, in microseconds since the Unix epoch; 0 for one without an end."""
    limit: int
    period: int = 0
    """How long the window is at most, in microseconds; 0 for one without an end."""


class Spend(NamedTuple):
    """What one call takes: its cost from each of some counters, or nothing from any of them."""

    counters: tuple[Counter, ...]
    cost: int
    """In units. 0 takes nothing, and asks whether there is a unit left."""
    take: bool = True
    """False only looks."""


class CounterState(NamedTuple):
    """How a counter stands after a draw."""

    start: int
    """The window that it counts in: the newest that any process has drawn in, if that is newer."""
    used: int
    fits: bool
    """There was room for the cost."""


Drawn = tuple[CounterState, ...]
"""The levels of a draw's counters, in their order. Nothing was taken unless all of them fit."""


class Counters(Protocol):
    """Draws counters, exactly over all processes and servers.

    A counter knows one window, the newest: a process whose clock is behind by up to one period
    draws in that, so no older window is opened again. A window that is further ahead was opened by
    a wrong clock. It is replaced, else the limit would stand still until its time has come. A limit
    that was changed is in force with the next draw. What was answered survives kill -9; a loss of
    power may forget the draws of the last moments.
    """

    async def draw(self, draws: Sequence[Spend]) -> Sequence[Drawn]:
        """Make all draws, one after the other, in one transaction, and commit it.

        No counter ever passes its limit. Raises StoreUnavailable if that cannot be known to be
        committed: then all was drawn, or nothing. A caller who goes away before it began draws
        nothing; after that, it stands.
        """
        ...

    async def close(self) -> None:
        """Finish what was handed in, then let go of everything."""
        ...


NOT_DRAWN: Final = "the counters were not drawn in time"

COUNTERS_CLOSED: Final = "SELECT closed FROM counter_state WHERE id = 1"
HANDED_OVER: Final = "the counters were closed by a copy, which takes them over"

_GET: Final = "SELECT start, used FROM counter WHERE name = ?"
_PUT: Final = """
    INSERT INTO counter (name, start, used) VALUES (?, ?, ?)
    ON CONFLICT (name) DO UPDATE SET start = excluded.start, used = excluded.used
    """


class CounterBatch:
    """The draws of one transaction, over rows that nobody else changes until its end."""

    def __init__(self, rows: Rows, counts: Mapping[str, tuple[int, int]] | None = None) -> None:
        """Draw over `rows`; `counts` are those that were read already: name to (start, used)."""
        self._rows = rows
        self._counts = dict(counts or {})
        self._changed: set[str] = set()

    def draw(self, draw: Spend) -> Drawn:
        """Make one draw: the cost from all of its counters, or nothing."""
        needed = max(draw.cost, 1)  # to ask for nothing is to ask whether a unit is left
        levels = []
        for counter in draw.counters:
            start, used = self._count(counter)
            levels.append(CounterState(start, used, used + needed <= counter.limit))
        if not draw.take or draw.cost == 0 or not all(level.fits for level in levels):
            return tuple(levels)
        taken = tuple(CounterState(start, used + draw.cost, True) for start, used, _ in levels)
        for counter, level in zip(draw.counters, taken, strict=True):
            self._counts[counter.name] = (level.start, level.used)
            self._changed.add(counter.name)
        return taken

    def write(self) -> None:
        """Write what has changed."""
        if self._changed:
            self._rows.run_many(_PUT, [(name, *self._counts[name]) for name in self._changed])

    def _count(self, counter: Counter) -> tuple[int, int]:
        """Return the window that a counter counts in, and what is used of it."""
        known = self._counts.get(counter.name)
        if known is None:
            row = self._rows.one(_GET, (counter.name,))
            known = self._counts[counter.name] = (counter.start, 0) if row is None else (*row,)
        start, period = counter.start, counter.period
        return (
            known
            if start <= known[0] and (not period or known[0] <= start + period)
            else (start, 0)
        )
