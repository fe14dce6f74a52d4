"""Keys and projects as the log of changes has left them, in memory: what Verify is answered from.

For an engine whose every read is a way to another machine and back. Each record is stamped with the
revision that it was read at, and each change that the feed tells is made to it, so what is shown is
one state: that of the revision told last. Nothing is dropped for its age: while the feed is known
to be fresh, so is every record.

**What is read is taken in** only if it is not older than the feed's position, so it can never undo
a change that was told. What is newer waits: it is shown when the position has come to it.

**Of the process's own changes** none is missing from what it answers once they are acknowledged.

**A digest** is shown under the current version of the pepper only. One made anew makes no change,
so what is under another is read each time, until it was made anew and is taken in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, NamedTuple, Protocol

from keyauthority.clock import monotonic
from keyauthority.model import Change, Key, Project, Revision
from keyauthority_server.bounded import Bounded, weight_of
from keyauthority_server.peppers import Keyring
from keyauthority_server.store.base import StoreStale, StoreUnavailable
from keyauthority_server.store.looks import Proving
from keyauthority_server.store.values import ANY, Held, Sight, Sights, Wanted

KEYS_MAX: Final = 100_000  # usual ones, of some 2 KB each, and as many projects
ABSENT_MAX: Final = 10_000  # access keys that no key has: they are whatever callers send
BEATS: Final = 5  # within the bound, so that one that is late does not matter
BEAT_SECONDS_MAX: Final = 0.2  # however wide the bound: that none comes through is seen soon


class Followed(Protocol):
    """The feed, as far as it is looked at here."""

    @property
    def as_of(self) -> float:
        """No change that was committed before this moment is missing; see `values.Tail`."""
        ...


class _Kept(NamedTuple):
    """A key, or that there is none of this name."""

    at: Revision
    """It was so at this revision, and is until a change is told."""
    held: Held | None


class _KeptProject(NamedTuple):
    at: Revision
    project: Project


class Counted(NamedTuple):
    """Which looks there were since it was asked last."""

    memory: int
    """Answered from memory."""
    store: int
    """Read."""


class Cache:
    """Answers looks from memory, and reads what is not there. See `Looks`, and feed's `Subscriber`.

    It has to be subscribed to the feed of its store, and `position` set to what that returns.
    """

    def __init__(
        self,
        store: Proving,
        feed: Followed,
        peppers: Keyring,
        max_staleness: float,
        keys_max: int = KEYS_MAX,
        absent_max: int = ABSENT_MAX,
    ) -> None:
        """Never answer with what may be older than `max_staleness`, in seconds."""
        self._store = store
        self._feed = feed
        self._peppers = peppers
        self._max_staleness = max_staleness
        self._keys: Bounded[str, _Kept] = Bounded(keys_max)
        self._absent: Bounded[str, _Kept] = Bounded(absent_max)
        self._projects: Bounded[str, _KeptProject] = Bounded(keys_max)
        self._losses = 0
        self._hits = 0
        self._misses = 0
        self.position = Revision(0)
        """All changes up to here have been told: the revision of what is shown."""

    @property
    def staleness(self) -> float:
        """How old, in seconds, the state that is shown may be; without bound if nobody can tell."""
        return max(monotonic() - self._feed.as_of, 0.0)

    @property
    def keys(self) -> int:
        """How many keys are kept."""
        return len(self._keys)

    async def look(
        self, access_key: str | None, operator: str | None, wanted: Wanted = ANY
    ) -> Sight:
        """Return a key with its project, and the key that `operator` names, as one state."""
        if self._may_show(wanted):
            shown = self._shown(access_key, operator)
            if shown is not None:
                self._hits += 1
                return shown
        head, (pair,), held_operator = await self._read((access_key or "",), operator, wanted)
        return Sight(head, *pair, held_operator)

    async def look_many(
        self, access_keys: Sequence[str], operator: str | None, wanted: Wanted = ANY
    ) -> Sights:
        """Return many keys, each with its project, and an operator's key, as one state.

        From memory if all of them are there; else all are read.
        """
        if self._may_show(wanted):
            found = [self._shown(name, None) for name in access_keys]
            caller = self._shown(None, operator)
            pairs = [(one.held, one.project) for one in found if one is not None]
            if caller is not None and len(pairs) == len(access_keys):
                self._hits += 1
                return Sights(self.position, pairs, caller.operator)
        return await self._read(access_keys, operator, wanted)

    def stands_at(self, revision: Revision) -> bool:
        """True if this revision is the one that is shown, and it may be."""
        stands = revision == self.position and self._may_show(ANY)
        self._hits += stands
        return stands

    def changed(self, changes: Sequence[Change], position: Revision) -> None:
        """Make the changes to what is kept, and show that from now on."""
        for change in changes:
            revision = Revision(change.revision)
            for key in change.keys:
                self._change_key(key, revision)
            if change.project is not None:
                self._change_project(change.project, revision)
        self.position = position

    def beat(self, position: Revision, as_of: float) -> None:
        """Do nothing: how fresh the feed is, is looked at when it matters."""

    def lost(self, position: Revision) -> None:
        """Forget everything, and what is being read as well."""
        self._keys.clear()
        self._absent.clear()
        self._projects.clear()
        self._losses += 1
        self.position = position

    def count(self) -> Counted:
        """Return what was counted, and count anew."""
        counted = Counted(self._hits, self._misses)
        self._hits = self._misses = 0
        return counted

    def _within(self, as_of: float) -> bool:
        return monotonic() - as_of <= self._max_staleness

    def _may_show(self, wanted: Wanted) -> bool:
        """True if the state of `position` is good enough."""
        return (
            wanted.at_least <= self.position >= self._store.acknowledged
            and not wanted.bookkeeping
            and self._within(self._feed.as_of)
        )

    def _shown(self, access_key: str | None, operator: str | None) -> Sight | None:
        """Return what is kept, None if any part of it is not."""
        held = project = held_operator = None
        if access_key is not None:
            kept = self._kept(access_key)
            if kept is None:
                return None
            held = kept.held
            if held is not None and held.key.project_id:
                of = self._projects.get(held.key.project_id)
                if of is None or of.at > self.position:
                    return None
                project = of.project
        if operator is not None:
            kept = self._kept(operator)
            if kept is None:
                return None
            held_operator = kept.held
        return Sight(self.position, held, project, held_operator)

    def _kept(self, access_key: str) -> _Kept | None:
        kept = self._keys.get(access_key) or self._absent.get(access_key)
        if kept is None or kept.at > self.position:
            return None
        held = kept.held
        if held is not None and held.pepper_version != self._peppers.current:
            return None
        return kept

    async def _read(
        self, access_keys: Sequence[str], operator: str | None, wanted: Wanted
    ) -> Sights:
        """Read from the store, and take in what was read, if it may be shown."""
        self._misses += 1
        if wanted.proven and not self._within(self._store.proven_at):
            raise StoreStale("no commit has proven in time that the database is the one")
        losses = self._losses
        sights, as_of = await self._store.look_proven(access_keys, operator)
        if losses != self._losses:
            raise StoreUnavailable("the log lost changes while it was read")
        if self._within(as_of):
            if sights.head >= self.position:
                self._take(access_keys, operator, sights)
        elif wanted.proven:
            raise StoreStale("nothing has proven in time that the database read is the one")
        return sights

    def _take(self, access_keys: Sequence[str], operator: str | None, sights: Sights) -> None:
        for name, (held, project) in zip(access_keys, sights.pairs, strict=True):
            self._keep(name, _Kept(sights.head, held))
            if project is not None:
                self._keep_project(project, sights.head)
        if operator is not None:
            self._keep(operator, _Kept(sights.head, sights.operator))

    def _keep(self, name: str, kept: _Kept) -> None:
        if kept.held is None:
            self._absent.keep(name, kept)
        else:
            self._absent.drop(name)
            self._keys.keep(name, kept, weight_of(kept.held.key))

    def _keep_project(self, project: Project, at: Revision) -> None:
        self._projects.keep(project.project_id, _KeptProject(at, project), weight_of(project))

    def _change_key(self, key: Key, revision: Revision) -> None:
        """Make a change to a key: all of it but what no change tells of."""
        self._absent.drop(key.access_key)
        kept = self._keys.get(key.access_key)
        if kept is None or kept.held is None:
            return
        if key.revoke_time is not None and kept.at < revision:  # for good: few ask for it again
            self._keys.drop(key.access_key)
            return
        used = kept.held.key.last_used_time
        held = kept.held._replace(key=replace(key, last_used_time=used))
        self._keep(key.access_key, _Kept(revision, held))

    def _change_project(self, project: Project, revision: Revision) -> None:
        if project.project_id in self._projects:
            self._keep_project(project, revision)


def beat_seconds(max_staleness: float) -> float:
    """Return how often freshness has to be proven to stay within the bound, in seconds."""
    return min(max_staleness / BEATS, BEAT_SECONDS_MAX)
