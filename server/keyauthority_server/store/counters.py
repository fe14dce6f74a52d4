"""The contract of the counters of rate limits and quotas, and their arithmetic for both engines.

Spends run in transactions of their own, serialised over all processes and servers. They are
bookkeeping: they make no change and no revision.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from keyauthority_server.store.interface import StoreError, StoreUnavailable
from keyauthority_server.store.rows import Rows, SetStatement


class Counter(NamedTuple):
    """The counter of a limit in one window."""

    name: str
    """Unique for each limit."""
    start: int
    """Start of the window, in microseconds since the Unix epoch; 0 if the window has no end."""
    limit: int
    period: int = 0
    """Greatest length of the window, in microseconds; 0 if it has no end."""


class Spend(NamedTuple):
    """A call's cost, spent from every counter or from none of them."""

    counters: tuple[Counter, ...]
    cost: int
    """In units. 0 spends nothing, and checks whether a unit is left."""
    dry_run: bool = False
    """True checks without spending."""


class CounterState(NamedTuple):
    """The state of a counter after a spend."""

    start: int
    """Start of the counted window; a newer window of another process takes precedence."""
    used: int
    fits: bool
    """There was room for the cost."""


SpendResult = tuple[CounterState, ...]
"""The states of a spend's counters, in their order. Nothing was spent unless all had room."""


class Counters(Protocol):
    """Spends from counters, exactly over all processes and servers.

    A counter has one window, the newest: a process whose clock is late by up to one period spends
    from that window, so older windows never reopen. A window further ahead was opened by a wrong
    clock; it is replaced, otherwise the limit would freeze until then. A changed limit applies from
    the next spend. Answered spends survive kill -9; a loss of power may lose the most recent ones.
    """

    async def spend(self, spends: Sequence[Spend]) -> Sequence[SpendResult]:
        """Make all spends in order, in one transaction, and commit it.

        No counter ever exceeds its limit. Raises StoreUnavailable if the outcome is unknown: then
        all spends were made, or none. A call cancelled before the transaction began spends nothing;
        a later cancellation has no effect.
        """
        ...

    def spend_now(self, spends: Sequence[Spend]) -> Sequence[SpendResult] | None:
        """Do as `spend` at once; None, with nothing spent, if that would wait or has failed.

        Raises StoreUnavailable if the outcome is unknown.
        """
        ...

    async def check(self) -> None:
        """Raise StoreUnavailable unless counters can be spent from now; spends nothing."""
        ...

    async def close(self) -> None:
        """Finish the submitted spends, then release all resources."""
        ...


class CountersHandedOver(StoreUnavailable):
    """A copy has taken the counters over: they are closed for ever."""


def spend_failure(error: StoreError) -> StoreUnavailable:
    """Return the error for callers, even for a full disk: verdicts must not depend on it."""
    if isinstance(error, CountersHandedOver):
        return error
    return StoreUnavailable(f"the counters cannot be used: {error}")


NOT_SPENT: Final = "the counters were not reached in time"

COUNTERS_CLOSED: Final = "SELECT closed FROM counter_state WHERE id = 1"
HANDED_OVER: Final = "the counters are closed: a copy has taken them over"

_GET: Final = "SELECT start, used FROM counter WHERE name = ?"
_PUT: Final = SetStatement(
    """
    INSERT INTO counter (name, start, used) VALUES (?, ?, ?)
    ON CONFLICT (name) DO UPDATE SET start = excluded.start, used = excluded.used
    """,
    ("TEXT", "BIGINT", "BIGINT"),
)


class CounterBatch:
    """The spends of one transaction, over rows that it has locked."""

    def __init__(self, rows: Rows, counts: dict[str, tuple[int, int]] | None = None) -> None:
        """Spend from counters in `rows`; `counts` has those already read: name to (start, used).

        They are kept up to date, and true only once the transaction is committed.
        """
        self._rows = rows
        self._counts = {} if counts is None else counts
        self._changed: set[str] = set()

    def spend(self, spend: Spend) -> SpendResult:
        """Spend the cost from all of the counters, or nothing."""
        counters, cost, dry_run = spend
        needed = cost or 1  # a cost of 0 checks whether a unit is left
        states, all_fit = [], True
        for counter in counters:
            start, used = self._count(counter)
            fits = used + needed <= counter.limit
            all_fit = all_fit and fits
            states.append(CounterState(start, used, fits))
        if dry_run or not (all_fit and cost):
            return tuple(states)
        spent = []
        for counter, (start, used, _) in zip(counters, states, strict=True):
            self._counts[counter.name] = start, used + cost
            self._changed.add(counter.name)
            spent.append(CounterState(start, used + cost, True))
        return tuple(spent)

    def write(self) -> None:
        """Write the changed counters."""
        if self._changed:
            changed = [(name, *self._counts[name]) for name in self._changed]
            self._rows.run_set(_PUT, changed)

    def _count(self, counter: Counter) -> tuple[int, int]:
        """Return the counted window of a counter, and its used units."""
        name, start, _, period = counter
        counted = self._counts.get(name)
        if counted is None:
            row = self._rows.one(_GET, (name,))
            if row is None:
                return start, 0
            counted = self._counts[name] = (*row,)
        if start <= counted[0] and (not period or counted[0] <= start + period):
            return counted
        return start, 0
