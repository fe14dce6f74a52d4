"""WatchChanges: streams to each caller the changes that it may see."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from keyauthority.errors import ErrorReason, error
from keyauthority.model import KeyKind, Revision
from keyauthority.requests import KeyFilter, WatchQuery
from keyauthority_server.change_feed import (
    ByteBudget,
    EncodedChange,
    ReplayBuffer,
    encode_change,
    encode_key,
    encode_project,
)
from keyauthority_server.services.context import ServiceContext
from keyauthority_server.services.principal import Principal
from keyauthority_server.store.sql.queries.lists import list_keys, list_projects
from keyauthority_server.store.types import Scope

REPLAY_MAX: Final = 100_000  # changes; reading them again takes one process 7 s
PAGE: Final = 128  # changes or records; encoding them takes 5 ms of the event loop
PAGE_BYTES: Final = 512 * 1024  # target, estimated from the sizes of the page before
HELD_MAX: Final = 128 * 1024 * 1024  # bytes, of all watchers, until their clients have read them
PAGE_HELD: Final = 3 * PAGE_BYTES  # a page, its message, and grpcio's copy of the message
FIRST_PAGE: Final = 8  # records; at 256 KiB each they are 2 MiB
SMALL: Final = 16 * 1024  # bytes; a smaller update takes nothing from the byte budget

Authenticate = Callable[[], Awaitable[Principal]]
"""Authenticates the caller again; raises the error that ends the watch."""


class Update(NamedTuple):
    """One message to a watcher; see the proto's WatchChangesResponse."""

    changes: Sequence[EncodedChange]
    revision: Revision
    server_time: datetime
    lag: timedelta
    checkpoint: bool = False
    resync: bool = False


class Watch:
    """Streams changes, and authenticates the caller again before each update."""

    def __init__(self, context: ServiceContext, buffer: ReplayBuffer) -> None:
        self._context = context
        self._buffer = buffer
        self._budget = ByteBudget(HELD_MAX)

    def end(self) -> None:
        """End all watches: each delivers the buffered changes, then raises Unavailable."""
        self._buffer.end()

    async def watch(
        self, caller: Principal, authenticate: Authenticate, query: WatchQuery
    ) -> AsyncGenerator[Update]:
        """Yield the changes that the caller may see, until its right ends or it falls behind.

        `authenticate` returned `caller`, and is called again before each update. NotFound for a
        project outside the caller's scope, FailedPrecondition for a start beyond the head.
        """
        self._require_running()
        await self._context.require_visible(caller, query.project_id, "")
        async with self._buffer.watched():
            truncations = self._buffer.truncations
            start = self._start(query)
            if start is None:
                yield self._resync()
                return
            visible = _WatchFilter(caller.scope, query.project_id)
            if query.snapshot:
                async with aclosing(self._snapshot(visible)) as pages:
                    async for page in pages:
                        self._require_running()
                        await authenticate()
                        yield self._update(page, start)
            changes = self._changes(authenticate, visible, start, truncations)
            async with aclosing(changes) as updates:
                async for update in updates:
                    yield update

    def _start(self, query: WatchQuery) -> Revision | None:
        """Return the revision to start after; None if the caller needs a new snapshot."""
        head = self._buffer.position
        if query.log_id and query.log_id != self._context.log_id:
            return None
        if query.from_revision is None:
            return head
        if query.from_revision > head:
            raise error(ErrorReason.REVISION_AHEAD, "from_revision is beyond the newest change")
        return Revision(query.from_revision) if _can_replay(query.from_revision, head) else None

    async def _snapshot(self, visible: _WatchFilter) -> AsyncGenerator[Sequence[EncodedChange]]:
        """Yield all records in pages, projects first. Concurrent changes follow the snapshot."""
        store = self._context.store
        cursor: int | None = 0
        if visible.project_id:
            project = await store.get_project(visible.project_id, visible.scope)
            yield [encode_project(project)] if project else []
        size = _PageSize()
        while not visible.project_id and cursor is not None:
            async with self._budget.hold(PAGE_HELD):
                projects, cursor = await store.query(
                    list_projects, visible.scope, cursor, size.records
                )
                page = [encode_project(project) for project in projects]
                del projects  # decoded records take several times the memory
                size.adapt(page)
                yield page
        for key_filter in visible.key_filters:
            cursor = 0
            while cursor is not None:
                async with self._budget.hold(PAGE_HELD):
                    now = self._context.clock.now()
                    keys, cursor = await store.query(
                        list_keys,
                        visible.project_id or None,
                        visible.scope,
                        key_filter,
                        now,
                        cursor,
                        size.records,
                    )
                    page = [encode_key(key, now) for key in keys]
                    del keys
                    size.adapt(page)
                    yield page

    async def _changes(
        self,
        authenticate: Authenticate,
        visible: _WatchFilter,
        position: Revision,
        truncations: int,
    ) -> AsyncGenerator[Update]:
        """Yield the changes after `position`: from the log, then from the replay buffer.

        Only an update that reaches the head is a checkpoint: it states how fresh the watcher is.
        """
        buffer, size = self._buffer, _PageSize()
        while buffer.since(position) is None and buffer.truncations == truncations:
            self._require_running()
            missing = buffer.position - position  # later changes are in the buffer
            async with self._budget.hold(PAGE_HELD):
                tail = await self._context.store.read_changes(position, min(missing, size.records))
                if not tail.changes or not _can_replay(position, tail.head):
                    break
                await authenticate()
                position = Revision(tail.changes[-1].revision)
                page = [encode_change(change) for change in tail.changes]
                del tail
                size.adapt(page)
                yield self._update(visible.select(page), position)
        heartbeats = -1  # the first update is a checkpoint, with or without changes
        while True:
            ended = buffer.ended
            pending = buffer.since(position) if buffer.truncations == truncations else None
            if pending is None:
                yield self._resync()
                return
            position, as_of, changes = buffer.position, buffer.as_of, visible.select(pending)
            if changes or buffer.heartbeats != heartbeats:
                if heartbeats < 0 or not changes:
                    heartbeats = buffer.heartbeats
                await authenticate()
                size_bytes = sum(len(change.body) for change in changes)
                if size_bytes > SMALL:
                    async with self._budget.hold(min(size_bytes, PAGE_HELD)):
                        yield self._update(changes, position, as_of)
                else:
                    yield self._update(changes, position, as_of)
            if ended:
                self._require_running()
            await buffer.wait(position, heartbeats)

    def _require_running(self) -> None:
        if self._buffer.ended:
            raise error(ErrorReason.SHUTTING_DOWN, "the server is shutting down; try again")

    def _resync(self) -> Update:
        return self._update((), self._buffer.position)._replace(resync=True)

    def _update(
        self, changes: Sequence[EncodedChange], revision: Revision, as_of: float | None = None
    ) -> Update:
        """Return an update; with `as_of` a checkpoint, complete up to that monotonic time."""
        clock = self._context.clock
        proven = self._buffer.as_of if as_of is None else as_of
        lag = timedelta(seconds=max(clock.monotonic() - proven, 0.0))
        return Update(changes, revision, clock.now(), lag, checkpoint=as_of is not None)


class _PageSize:
    """The number of records in the next page, adapted to the bytes of the last one."""

    def __init__(self) -> None:
        self.records = min(FIRST_PAGE, PAGE)

    def adapt(self, page: Sequence[EncodedChange]) -> None:
        """Adapt to the largest record of a page; at most double."""
        largest = max((len(change.body) for change in page), default=1)
        self.records = min(PAGE, 2 * self.records, max(PAGE_BYTES // max(largest, 1), 1))


def _can_replay(position: int, head: int) -> bool:
    """True if the changes between are few enough to read again."""
    return head - position <= REPLAY_MAX


class _WatchFilter(NamedTuple):
    """The records that a watcher may see and has asked for."""

    scope: Scope
    project_id: str

    @property
    def key_filters(self) -> Sequence[KeyFilter]:
        """Filters that together list all visible keys; operator keys have no project."""
        if self.scope is not None or self.project_id:
            return (KeyFilter(),)
        return (KeyFilter(), KeyFilter(kind=KeyKind.OPERATOR))

    def select(self, changes: Sequence[EncodedChange]) -> Sequence[EncodedChange]:
        """Return the visible changes."""
        if self.project_id:
            return [change for change in changes if change.project_id == self.project_id]
        if self.scope is None:
            return changes
        return [change for change in changes if change.project_id in self.scope]
