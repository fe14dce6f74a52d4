"""The events that are not delivered yet, and the position in the log up to which they were taken.

All of it is in the cursor file: after a kill, events are sent again at most that were delivered in
the last moments. The outbox is bounded; while it is full, changes wait in the log of the authority.
"""

from __future__ import annotations

import asyncio
import heapq
import secrets
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Final, NamedTuple

from keyauthority.clock import SystemClock, monotonic
from keyauthority.notify.events import Event
from keyauthority.notify.journal import DAMAGED, Journal, Operation

DELAYS: Final = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""Seconds from a failed attempt to the next; after the last one an event is given up."""
RETRY_AFTER_MAX: Final = 86_400.0  # seconds; as the longest of `DELAYS`
JITTER: Final = 0.1  # at most this part of a delay is added to it
BYTES_MAX: Final = 64 * 1024 * 1024  # of events; some 50,000 of usual size
EVENT_BYTES: Final = 512  # of memory for an event, its body excepted

CHANGE: Final = "change"
ADVISORY: Final = "advisory"

_JITTER_STEPS: Final = 1000


class Position(NamedTuple):
    """A place in the log of changes."""

    log_id: str
    revision: int


@dataclass(slots=True, eq=False)
class Pending:
    """An event that is not delivered."""

    event: Event
    taken: float
    """Time when it was taken, in seconds since the Unix epoch."""
    attempts: int = 0
    """Failed attempts."""
    due: float = 0.0
    """Monotonic time of the next attempt."""


class Outbox:
    """Pending events, by the time of their next attempt."""

    def __init__(self, journal: Journal) -> None:
        """Restore the state. Raises CannotNotify for a cursor file that cannot be used."""
        self._journal = journal
        self._pending: dict[str, Pending] = {}
        self._new: deque[Pending] = deque()
        self._retries: list[tuple[float, int, Pending]] = []
        self._order = count()
        self._bytes = 0
        self._drained = asyncio.Event()
        self.taken = Counter({CHANGE: 0, ADVISORY: 0})
        """Events taken since the start, by source."""
        self.position: Position | None = None
        """All changes up to it have been taken; None before the first start."""
        self.advisories: set[str] | None = None
        """Identities of the open advisories; None before the first look."""
        self.on_new: Callable[[], None] = lambda: None
        """Called when an event has been taken."""
        now = _now()
        try:
            for operation in journal.read():
                self._restore(operation, now)
        except (KeyError, ValueError):
            raise journal.unusable(DAMAGED) from None
        for pending in self._pending.values():
            self._schedule(pending)

    def __len__(self) -> int:
        return len(self._pending)

    @property
    def is_full(self) -> bool:
        """True if no event can be taken."""
        return self._bytes >= BYTES_MAX

    @property
    def retries(self) -> int:
        """The number of events with a failed attempt."""
        return sum(pending.attempts > 0 for pending in self._pending.values())

    @property
    def oldest_age(self) -> float:
        """Seconds since the oldest event was taken; 0 without events."""
        oldest = min((pending.taken for pending in self._pending.values()), default=None)
        return 0.0 if oldest is None else max(_now() - oldest, 0.0)

    async def wait_for_room(self) -> None:
        """Wait until the outbox is not full."""
        while self.is_full:
            self._drained.clear()
            await self._drained.wait()

    def take(self, position: Position, events: Iterable[Event]) -> None:
        """Take the events up to a position, all or none of them; `flush` makes it durable."""
        operations: list[Operation] = [["position", *position]]
        operations += (
            self._take(event, CHANGE) for event in events if event.id not in self._pending
        )
        if len(operations) > 1 or position != self.position:
            self._journal.append(*operations)
        self.position = position
        if len(operations) > 1:
            self.on_new()

    def open_advisory(self, identity: str, event: Event) -> None:
        """Take the event of an advisory that has opened."""
        assert self.advisories is not None  # noqa: S101 - the first look opens none
        self.advisories.add(identity)
        self._journal.append(["opened", identity])
        if event.id not in self._pending:  # it may have closed, and be open again
            self._journal.append(self._take(event, ADVISORY))
            self.on_new()

    def keep_advisories(self, identities: set[str]) -> None:
        """Remember these advisories as open, and no others."""
        if identities != self.advisories:
            self.advisories = identities
            self._journal.append(["advisories", *identities])

    def next_new(self) -> Pending | None:
        """Remove and return the oldest event without an attempt."""
        return self._new.popleft() if self._new else None

    def next_retry(self) -> Pending | None:
        """Remove and return an event whose next attempt is due."""
        if self._retries and self._retries[0][0] <= monotonic():
            return heapq.heappop(self._retries)[2]
        return None

    @property
    def next_due(self) -> float | None:
        """Monotonic time of the next retry; None if no event waits for one."""
        return self._retries[0][0] if self._retries else None

    def delivered(self, pending: Pending) -> None:
        """Forget an event."""
        del self._pending[pending.event.id]
        self._bytes -= _size(pending.event)
        self._journal.append(["done", pending.event.id])
        if not self.is_full:
            self._drained.set()

    def failed(self, pending: Pending, retry_after: float | None) -> bool:
        """Plan the next attempt, not before `retry_after` seconds; return False if it was the last.

        An event is forgotten after its last attempt.
        """
        if pending.attempts >= len(DELAYS):
            self.delivered(pending)
            return False
        delay = max(_with_jitter(DELAYS[pending.attempts]), min(retry_after or 0, RETRY_AFTER_MAX))
        pending.attempts += 1
        pending.due = monotonic() + delay
        self._schedule(pending)
        self._journal.append(_failure(pending, _now() - monotonic()))
        return True

    async def flush(self) -> None:
        """Return when the state is durable. Raises CursorFailed."""
        await self._journal.flush(self._snapshot)

    def _take(self, event: Event, source: str) -> Operation:
        """Add a new event, and return the operation for the file."""
        pending = self._add(event, _now())
        self._schedule(pending)
        self.taken[source] += 1
        return _addition(pending)

    def _add(self, event: Event, taken: float) -> Pending:
        pending = self._pending[event.id] = Pending(event, taken)
        self._bytes += _size(event)
        return pending

    def _schedule(self, pending: Pending) -> None:
        if pending.attempts:
            heapq.heappush(self._retries, (pending.due, next(self._order), pending))
        else:
            self._new.append(pending)

    def _snapshot(self) -> Sequence[Operation]:
        offset = _now() - monotonic()
        operations: list[Operation] = []
        if self.position:
            operations.append(["position", *self.position])
        if self.advisories is not None:
            operations.append(["advisories", *self.advisories])
        for pending in self._pending.values():
            operations.append(_addition(pending))
            if pending.attempts:
                operations.append(_failure(pending, offset))
        return operations

    def _restore(self, operation: Operation, now: float) -> None:
        """Make one operation of the file; `now` is in seconds since the Unix epoch."""
        match operation:
            case ["position", str(log_id), int(revision)]:
                self.position = Position(log_id, revision)
            case ["advisories", *identities]:
                self.advisories = set(map(str, identities))
            case ["opened", str(identity)] if self.advisories is not None:
                self.advisories.add(identity)
            case ["add", str(event_id), str(body)]:  # of a file before the time was kept
                self._add(Event(event_id, body), now)
            case ["add", str(event_id), str(body), float() | int() as taken]:
                self._add(Event(event_id, body), taken)
            case ["failed", str(event_id), int(attempts), float() | int() as due]:
                pending = self._pending[event_id]
                pending.attempts = attempts
                # A clock that was set back in between does not delay it further.
                pending.due = monotonic() + min(due - now, RETRY_AFTER_MAX)
            case ["done", str(event_id)]:
                self._bytes -= _size(self._pending.pop(event_id).event)
            case _:
                raise ValueError(f"unknown operation {operation!r}")


def _now() -> float:
    return SystemClock().now().timestamp()


def _addition(pending: Pending) -> Operation:
    return ["add", *pending.event, round(pending.taken, 3)]


def _failure(pending: Pending, offset: float) -> Operation:
    return ["failed", pending.event.id, pending.attempts, round(pending.due + offset, 3)]


def _size(event: Event) -> int:
    return len(event.body) + EVENT_BYTES


def _with_jitter(delay: float) -> float:
    return delay * (1 + JITTER * secrets.randbelow(_JITTER_STEPS) / _JITTER_STEPS)
