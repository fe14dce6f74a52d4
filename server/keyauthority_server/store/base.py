"""The contract of a store, in prose. Every engine keeps it; one suite (`tests/store`) checks it.

**What is one.** A `Sight` is one consistent state: key, project, operator and head belong to the
same revision. A unit of work given to `Store.write` is atomic: all of it is committed, or none.

**The spine.** `Transaction.apply` is the only way to change a key or project. It takes the next
revision from the one counter row, stamps the records with it, writes them, and appends the change
with the hash of the change before, all in one transaction. So revision order is commit order,
revisions have no gap, and each change has exactly one entry in the log.

**Who commits.** The engine, after the work has returned, and before `write` does. What has been
returned by `write` survives kill -9 and loss of power. Work may be committed together with other
callers' work; an exception from it undoes its own part and nobody else's.

**What may be retried.** Reads, always. A write that ended with `StoreUnavailable` may have been
committed: repeat it only under a request_id, or look.

**Cancellation.** A caller that goes away does not stop a write that has been handed in: it commits
or fails as if he had stayed.

**Bookkeeping** (digests made anew, usage, last use, counters) makes no change and no revision.

**Counters** of limits have a contract of their own: `counters`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Protocol, TypeVar

from keyauthority.model import Change, Key, KeyFilter, LogId, Project, Revision, UsageRow
from keyauthority.requests import UsageQuery
from keyauthority_server.store.values import (
    Applied,
    Held,
    Mutation,
    Remembered,
    Scope,
    Sight,
    Sights,
)

T = TypeVar("T")


class StoreError(Exception):
    """The store failed. Messages are for the server's log, never for a caller."""


class StoreUnavailable(StoreError):
    """It cannot answer now; whether a write was committed is unknown. Try again later."""


class StoreFull(StoreError):
    """There is no space; nothing was committed. Only an operator can help."""


class StoreClosed(StoreError):
    """It was closed for writing for good, as the source of a copy is. Nothing was committed."""


class StoreRefused(StoreError):
    """It must not be opened: another application's, newer, damaged, or an unfit library."""


class Transaction(Protocol):
    """What work may do inside `Store.write`. Used in one thread, only until the work returns."""

    @property
    def head(self) -> Revision:
        """The newest revision, this transaction's own included."""
        ...

    @property
    def newest_time(self) -> datetime | None:
        """The time of the newest change; a mutation never has an earlier one."""
        ...

    def key(self, access_key: str, scope: Scope) -> Held | None:
        """Return the key as it is now, or None if it is absent or out of scope."""
        ...

    def project(self, project_id: str, scope: Scope) -> Project | None:
        """Return the project as it is now, or None if it is absent or out of scope."""
        ...

    def apply(self, mutation: Mutation) -> Applied:
        """Make one change: see the module's text.

        Raises StoreClosed, and ValueError for records that are not those of the mutation's type: a
        creation of what exists, or a change of what does not.
        """
        ...

    def change(self, revision: Revision) -> Change:
        """Return a change that was committed, with the records as they were after it."""
        ...

    def remembered(self, name: bytes, now: datetime) -> Remembered | None:
        """Return what is kept of a request, unless its end has come. Bookkeeping."""
        ...

    def remember(self, remembered: Remembered, now: datetime) -> None:
        """Keep a request, and drop some of those whose end has come. Bookkeeping."""
        ...

    def forget_token(self, access_key: str) -> None:
        """Drop the sealed tokens of a key, wherever one is kept. Bookkeeping."""
        ...

    def count_usage(
        self, batch_id: str, rows: Sequence[UsageRow], now: datetime, end: datetime
    ) -> None:
        """Add counts to their hours and days, unless the batch was counted before. Bookkeeping.

        The batch is remembered until `end`. Each row moves last_used_time of its key, which must
        exist, forward and never back. Sums stay at 2**63 - 1 when they get there.
        """
        ...

    def forget_batch(self, batch_id: str) -> None:
        """Remember a batch no more. Bookkeeping."""
        ...


class Store(Protocol):
    """See the module's text."""

    @property
    def log_id(self) -> LogId:
        """The log that this store's revisions count in."""
        ...

    async def look(self, access_key: str | None, operator: str | None) -> Sight:
        """Return a key with its project, and the key that `operator` names, as they are now.

        Whether the latter is an operator's is for the caller to check. Bound to be called for
        every Verify: one statement, one primary-key read for each part.
        """
        ...

    async def look_many(self, access_keys: Sequence[str], operator: str | None) -> Sights:
        """Return many keys, each with its project, and an operator's key, as they are now."""
        ...

    async def get_key(self, access_key: str, scope: Scope) -> Key | None:
        """Return the key, or None if it is absent or out of scope."""
        ...

    async def get_project(self, project_id: str, scope: Scope) -> Project | None:
        """Return the project, or None if it is absent or out of scope."""
        ...

    async def list_keys(
        self,
        project_id: str | None,
        scope: Scope,
        key_filter: KeyFilter,
        now: datetime,
        after: int,
        limit: int,
    ) -> tuple[Sequence[Key], int | None]:
        """Return up to `limit` keys in the order of their creation, and where to go on.

        `project_id` None means all of the scope. Operator keys, which belong to no project, are
        listed if `key_filter.kind` is OPERATOR, and only then. The place is the revision that a
        key was created by: pass it as `after` (0 for the first page). None means that there is no
        more. The time of a call is bounded: it may return fewer than `limit`, even none, with a
        place to go on from.
        """
        ...

    async def list_projects(
        self, scope: Scope, after: int, limit: int
    ) -> tuple[Sequence[Project], int | None]:
        """Return up to `limit` projects in the order of their creation, and where to go on."""
        ...

    async def list_usage(
        self, scope: Scope, query: UsageQuery, after: int, limit: int
    ) -> tuple[Sequence[UsageRow], int | None]:
        """Return up to `limit` rows in order of time, access key and verdict, and where to go on.

        The paging of `query` is not looked at. A key that it names must be of the scope, and of
        the project that it names. The place names a row: pass it as `after` (0 for the first
        page). None means that there is no more.
        """
        ...

    async def write(self, work: Callable[[Transaction], T]) -> T:
        """Run `work` in a transaction, commit, and return what it returned.

        `work` must not block, and is run once at most. Raises what `work` raises, and
        StoreUnavailable, StoreFull, StoreClosed.
        """
        ...

    async def newest_time(self) -> datetime | None:
        """Return the time of the newest change, None for an empty log."""
        ...

    async def key_checks(self) -> Mapping[str, bytes]:
        """Return the check values by which files of secret keys are recognised, by name."""
        ...

    async def set_key_checks(self, checks: Mapping[str, bytes]) -> None:
        """Record check values for names that have none yet. Bookkeeping: makes no change."""
        ...

    async def close(self) -> None:
        """Finish the writes that were handed in, then let go of everything."""
        ...
