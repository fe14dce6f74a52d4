"""Watching: what each caller may see of the log of changes, as it grows."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from keyauthority.errors import ErrorReason, error
from keyauthority.model import KeyFilter, KeyKind, Revision
from keyauthority.requests import WatchQuery
from keyauthority_server.change_feed import ByteBudget, Packed, Recent, pack, pack_key, pack_project
from keyauthority_server.services.context import ServiceContext, gone
from keyauthority_server.services.principal import Principal
from keyauthority_server.store.types import Scope

REPLAY_MAX: Final = 100_000  # changes: to read them again takes 7 s of a process
PAGE: Final = 128  # changes or records at once: 5 ms of the event loop to pack
PAGE_BYTES: Final = 512 * 1024  # aimed at: the records of a page are of the size of those before
HELD_MAX: Final = 128 * 1024 * 1024  # bytes of all watchers that wait for their client to read
PAGE_HELD: Final = 3 * PAGE_BYTES  # a page, its message, and the message within grpcio
FIRST_PAGE: Final = 8  # records: of 256 KiB each they are 2 MiB
SMALL: Final = 16 * 1024  # bytes that nobody waits for

Authenticate = Callable[[], Awaitable[Principal]]
"""Judges the caller anew: he as he is now, or the error that ends his watch."""


class Update(NamedTuple):
    """What a watcher is told at once; see the proto's WatchChangesResponse."""

    changes: Sequence[Packed]
    revision: Revision
    server_time: datetime
    lag: timedelta
    checkpoint: bool = False
    resync: bool = False


class Watch:
    """Gives each watcher his changes, and judges him before he gets any."""

    def __init__(self, context: ServiceContext, recent: Recent) -> None:
        self._context = context
        self._recent = recent
        self._budget = ByteBudget(HELD_MAX)

    def end(self) -> None:
        """End all watches: they raise Unavailable once they have told what there is."""
        self._recent.end()

    async def watch(
        self, caller: Principal, admit: Authenticate, wanted: WatchQuery
    ) -> AsyncGenerator[Update]:
        """Yield what the caller may see, until his right ends or he falls behind.

        He is the one that `admit` has given last, and gives again before each of the updates.
        NotFound for a project that is not his, FailedPrecondition for a start beyond the head.
        """
        self._go_on()
        await self._require_project(caller, wanted.project_id)
        async with self._recent.watched():
            losses = self._recent.losses
            start = self._start(wanted)
            if start is None:
                yield self._resync()
                return
            sees = _Sees(caller.scope, wanted.project_id)
            if wanted.snapshot:
                async with aclosing(self._snapshot(sees)) as pages:
                    async for page in pages:
                        self._go_on()
                        await admit()
                        yield self._update(page, start)
            async with aclosing(self._changes(admit, sees, start, losses)) as updates:
                async for update in updates:
                    yield update

    async def _require_project(self, caller: Principal, project_id: str) -> None:
        if project_id and await self._context.store.get_project(project_id, caller.scope) is None:
            raise gone(ErrorReason.PROJECT_NOT_FOUND)

    def _start(self, wanted: WatchQuery) -> Revision | None:
        """Return the revision that he knows all up to; None if he has to begin anew."""
        head = self._recent.position
        if wanted.log_id and wanted.log_id != self._context.log_id:
            return None
        if wanted.from_revision is None:
            return head
        if wanted.from_revision > head:
            raise error(ErrorReason.REVISION_AHEAD, "from_revision is beyond the head of the store")
        return Revision(wanted.from_revision) if _near(wanted.from_revision, head) else None

    async def _snapshot(self, sees: _Sees) -> AsyncGenerator[Sequence[Packed]]:
        """Yield all records in pages, projects first. What changes meanwhile comes behind them."""
        store = self._context.store
        place: int | None = 0
        if sees.project_id:
            project = await store.get_project(sees.project_id, sees.scope)
            yield [pack_project(project)] if project else []
        size = _PageSize()
        while not sees.project_id and place is not None:
            async with self._budget.hold(PAGE_HELD):
                projects, place = await store.list_projects(sees.scope, place, size.records)
                packed = [pack_project(one) for one in projects]
                del projects  # decoded they take several times as much
                size.learn(packed)
                yield packed
        for key_filter in sees.key_filters:
            place = 0
            while place is not None:
                async with self._budget.hold(PAGE_HELD):
                    now = self._context.clock.now()
                    keys, place = await store.list_keys(
                        sees.project_id or None, sees.scope, key_filter, now, place, size.records
                    )
                    packed = [pack_key(one, now) for one in keys]
                    del keys
                    size.learn(packed)
                    yield packed

    async def _changes(
        self, admit: Authenticate, sees: _Sees, place: Revision, losses: int
    ) -> AsyncGenerator[Update]:
        """Yield what is behind a place: from the log until what is kept goes on, then as it comes.

        A checkpoint is only what has been told up to the head: it says how fresh the watcher is.
        """
        recent, size = self._recent, _PageSize()
        while recent.since(place) is None and recent.losses == losses:
            self._go_on()
            missing = recent.position - place  # no more: what comes is kept, and the log is ahead
            async with self._budget.hold(PAGE_HELD):
                tail = await self._context.store.read_changes(place, min(missing, size.records))
                if not tail.changes or not _near(place, tail.head):
                    break
                await admit()
                place = Revision(tail.changes[-1].revision)
                packed = [pack(one) for one in tail.changes]
                del tail
                size.learn(packed)
                yield self._update(sees.of(packed), place)
        beats = -1  # the first is a checkpoint, whether there are changes or not
        while True:
            ended = recent.ended
            news = recent.since(place) if recent.losses == losses else None
            if news is None:
                yield self._resync()
                return
            place, as_of, seen = recent.position, recent.as_of, sees.of(news)
            if seen or recent.beats != beats:
                if beats < 0 or not seen:
                    beats = recent.beats
                await admit()
                stored = sum(len(one.body) for one in seen)
                if stored > SMALL:
                    async with self._budget.hold(min(stored, PAGE_HELD)):
                        yield self._update(seen, place, as_of)
                else:
                    yield self._update(seen, place, as_of)
            if ended:
                self._go_on()
            await recent.news(place, beats)

    def _go_on(self) -> None:
        if self._recent.ended:
            raise error(ErrorReason.SHUTTING_DOWN, "the server is shutting down; try again")

    def _resync(self) -> Update:
        return self._update((), self._recent.position)._replace(resync=True)

    def _update(
        self, changes: Sequence[Packed], revision: Revision, as_of: float | None = None
    ) -> Update:
        """Return what is told now; with `as_of`, that it is all that was committed by then."""
        clock = self._context.clock
        proven = self._recent.as_of if as_of is None else as_of
        lag = timedelta(seconds=max(clock.monotonic() - proven, 0.0))
        return Update(changes, revision, clock.now(), lag, checkpoint=as_of is not None)


class _PageSize:
    """How many records the next page has, going by the bytes of those before."""

    def __init__(self) -> None:
        self.records = min(FIRST_PAGE, PAGE)

    def learn(self, packed: Sequence[Packed]) -> None:
        """Take the records of a page into account."""
        largest = max((len(one.body) for one in packed), default=1)
        self.records = min(PAGE, 2 * self.records, max(PAGE_BYTES // max(largest, 1), 1))


def _near(place: int, head: int) -> bool:
    """True if what lies between is not too much to be read again."""
    return head - place <= REPLAY_MAX


class _Sees(NamedTuple):
    """What a watcher may see, and wants to."""

    scope: Scope
    project_id: str

    @property
    def key_filters(self) -> Sequence[KeyFilter]:
        """What lists all keys that he sees: those of operators are of no project."""
        if self.scope is not None or self.project_id:
            return (KeyFilter(),)
        return (KeyFilter(), KeyFilter(kind=KeyKind.OPERATOR))

    def of(self, changes: Sequence[Packed]) -> Sequence[Packed]:
        """Return the changes that he sees."""
        if self.project_id:
            return [one for one in changes if one.project_id == self.project_id]
        if self.scope is None:
            return changes
        return [one for one in changes if one.project_id in self.scope]
