"""When cached records may be used: one rule per engine.

SQLite reads the head of the log in each call, so its rule is exact in every process. A read of
PostgreSQL is a network round trip, so a change feed keeps the cache up to date and a heartbeat
bounds its age.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from keyauthority.clock import monotonic
from keyauthority.model import Revision
from keyauthority_server.store.interface import StoreStale
from keyauthority_server.store.snapshots import FreshnessProver, LocalLog

BEATS: Final = 5  # heartbeats within the bound, so that a late one does not matter
BEAT_SECONDS_MAX: Final = 0.2  # with any bound: a database that stops committing is noticed soon
TURN_SECONDS: Final = 0.01  # a current state is used for one iteration of the event loop
NAMES_MAX: Final = 256  # changes to catch up with one by one, some 100 µs; beyond, start empty

_UNPROVEN: Final = "no heartbeat committed in time: the database may not be the current one"


class ReadOptions(NamedTuple):
    """The freshness that a read requires."""

    at_least: int = 0
    """Not older than this revision, unless the head of the store is."""
    proven: bool = True
    """Raise if the age is unknown; False if a transaction checks the state again."""
    bookkeeping: bool = False
    """Include the current last_used_time, which changes do not carry."""


ANY: Final = ReadOptions()


class Followed(Protocol):
    """The change feed, as far as freshness depends on it."""

    @property
    def as_of(self) -> float:
        """The feed has every change committed before this time; see `types.ChangePage`."""
        ...


class CacheState(Protocol):
    """The part of the cache that a freshness rule uses."""

    position: Revision

    def drop(self, names: Sequence[str]) -> None:
        """Discard these records."""
        ...

    def clear(self) -> None:
        """Discard all records."""
        ...


class Freshness(Protocol):
    """Decides for each call whether cached records may answer it."""

    def catch_up(self, cache: CacheState, options: ReadOptions) -> bool:
        """Bring the cache up to date if that needs no wait; True if it may answer.

        Raises StoreUnavailable.
        """
        ...

    def check_read(self, as_of: float | None, options: ReadOptions) -> bool:
        """True if the records of a read may be cached; `as_of` is None before the read.

        Raises StoreStale if the read is, or will be, too old for `options`.
        """
        ...

    def check_fresh(self) -> None:
        """Raise StoreStale if neither cache nor store can answer with proven freshness."""
        ...

    @property
    def staleness(self) -> float:
        """The greatest age of an answer from memory, in seconds."""
        ...


class Uncached:
    """Never answers from memory: for a command that runs alongside a server."""

    staleness = 0.0

    def catch_up(self, cache: CacheState, options: ReadOptions) -> bool:
        """False."""
        return False

    def check_read(self, as_of: float | None, options: ReadOptions) -> bool:
        """False: nothing is cached."""
        return False

    def check_fresh(self) -> None:
        """Do nothing: each read is of committed state."""


class ExactFreshness:
    """Each call reads the head of the log; records changed since are dropped first."""

    staleness = 0.0

    def __init__(self, log: LocalLog) -> None:
        self._log = log

    def catch_up(self, cache: CacheState, options: ReadOptions) -> bool:
        """Discard the records changed since the cache's position."""
        head, position = self._log.head(), cache.position
        if head != position:
            changed = self._log.names_changed_since(position, NAMES_MAX)
            if changed:
                cache.drop(changed)
            else:  # too many names, or none although the log has moved
                cache.clear()
            cache.position = head
        return not options.bookkeeping

    def check_read(self, as_of: float | None, options: ReadOptions) -> bool:
        """True: each read is of committed state."""
        return True

    def check_fresh(self) -> None:
        """Do nothing: each read is of committed state."""


class ProvenFreshness:
    """The feed applies changes; a heartbeat proves that the database still commits."""

    def __init__(self, store: FreshnessProver, feed: Followed, max_staleness: float) -> None:
        """Bound the age of answers by `max_staleness`, in seconds."""
        self._store = store
        self._feed = feed
        self._max_staleness = max_staleness

    @property
    def staleness(self) -> float:
        """How old, in seconds, an answer from memory may be; unbounded if that is unknown."""
        return max(monotonic() - self._feed.as_of, 0.0)

    def catch_up(self, cache: CacheState, options: ReadOptions) -> bool:
        """True if the position is new enough, for the caller and for this process's own changes."""
        return (
            options.at_least <= cache.position >= self._store.acknowledged
            and not options.bookkeeping
            and self._within(self._feed.as_of - TURN_SECONDS)
        )

    def check_read(self, as_of: float | None, options: ReadOptions) -> bool:
        """True if a heartbeat within the bound proves the read."""
        proven = self._within(self._store.proven_at if as_of is None else as_of)
        if options.proven and not proven:
            raise StoreStale(_UNPROVEN)
        return proven

    def check_fresh(self) -> None:
        """Raise StoreStale if the feed lags, or no recent heartbeat proves reads."""
        if not (self._within(self._feed.as_of) and self._within(self._store.proven_at)):
            raise StoreStale(_UNPROVEN)

    def _within(self, as_of: float) -> bool:
        return monotonic() - as_of <= self._max_staleness


def heartbeat_seconds(max_staleness: float) -> float:
    """Return the heartbeat interval that keeps freshness within the bound, in seconds."""
    return min(max_staleness / BEATS, BEAT_SECONDS_MAX)
