"""The contract of a store, in prose. Every engine keeps it; one suite (`tests/store`) checks it.

**What is one.** A `Sight` is one consistent state: key, project, operator and head belong to the
same revision. A unit of work given to `Store.write` is atomic: all of it is committed, or none.

**The spine.** `Transaction.apply` is the only way to change a key or project. It takes the next
revision from the one counter row, stamps the records with it, writes them, and appends the change
with the hash of the change before, all in one transaction. So revision order is commit order,
revisions have no gap, and each change has exactly one entry in the log.

**The log is the truth.** A record is read, by a look, a list or a mutation, only if the log has
no later entry of it than its row names, and that entry holds the very same record. Else the call
ends with StoreDamaged: an older row that was written back is believed by nobody.

**Who commits.** The engine, after the work has returned, and before `write` does. What has been
returned by `write` survives kill -9 and loss of power. Work may be committed together with other
callers' work; an exception from it undoes its own part and nobody else's.

**What may be retried.** Reads, always. A write that ended with `StoreUnavailable` may have been
committed: repeat it only under a request_id, or look.

**A full disk.** Work that adds is refused with StoreFull while space is low, before the last of it
is gone. Urgent work, which takes access away, is not: space is kept in reserve for it, which
nothing else may use, bookkeeping neither. Reads go on. With space again all work goes on, without
a restart.

**Cancellation.** A caller that goes away does not stop a write that has been handed in: it commits
or fails as if he had stayed.

**Bookkeeping** (digests made anew, usage, last use, counters) makes no change and no revision.

**A closed store**, the source of a copy or an unfinished target, takes no change and no bookkeeping
but that of counters: StoreClosed. It can be read, and what it shows moves no more.

**Peppers.** The database knows a version of the pepper by its check value, `pepper/<version>` among
the key checks; one that is dropped loses it. A digest, and a sealed token, is made under the newest
version that is known in the transaction that writes it, so none can come under one that is gone. An
engine that keeps records, which digests made anew do not touch, must not show a digest under a
version that is known no more.

**Counters** of limits have a contract of their own: `counters`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Protocol, TypeVar

from keyauthority.model import Change, Key, KeyFilter, LogId, Project, Revision, UsageRow
from keyauthority.requests import EventQuery, UsageQuery
from keyauthority_server.store.snapshots import SnapshotReader
from keyauthority_server.store.types import (
    Applied,
    ChangePage,
    CorruptEntry,
    DeniedMutation,
    DigestUpgrade,
    IdempotencyRecord,
    LogHead,
    Mismatch,
    Mutation,
    PepperUsage,
    Scope,
    SignedEntry,
    StoredKey,
    VersionsInUse,
)

T = TypeVar("T")


class StoreError(Exception):
    """The store failed. Messages are for the server's log, never for a caller."""


class StoreUnavailable(StoreError):
    """It cannot answer now; whether a write was committed is unknown. Try again later."""


class StoreDenied(StoreUnavailable):
    """It does not let this server in: a password, a role or a database that it does not know."""


class StoreStale(StoreUnavailable):
    """It answers, but nobody can tell how old the answer is. Try again later."""


class StoreDamaged(StoreUnavailable):
    """What is asked for holds what no server has written: damaged or altered behind its back."""


class StoreFull(StoreError):
    """There is no space; nothing was committed. Only an operator can help."""


class StoreReadOnly(StoreError):
    """It was closed for writing for good, as the source of a copy is. Nothing was committed."""


class StoreUnusable(StoreError):
    """It must not be opened: another application's, newer, damaged, or an unfit library."""


class Transaction(Protocol):
    """What work may do inside `Store.write`. Used in one thread, only until the work returns."""

    @property
    def head(self) -> Revision:
        """The newest revision, this transaction's own included."""
        ...

    @property
    def newest_time(self) -> datetime | None:
        """The newest time that is committed, of a change or a verification; see `count_usage`.

        A mutation never has an earlier one.
        """
        ...

    def key(self, access_key: str, scope: Scope) -> StoredKey | None:
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

    def remembered(self, name: bytes, now: datetime) -> IdempotencyRecord | None:
        """Return what is kept of a request, unless its end has come. Bookkeeping."""
        ...

    def remember(self, remembered: IdempotencyRecord, now: datetime) -> None:
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
        exist, forward and never back. Sums stay at 2**63 - 1 when they get there. Counting moves
        the store's newest time to `now`, and never back: what was seen to have expired stays so.
        """
        ...

    def forget_batch(self, batch_id: str) -> None:
        """Remember a batch no more. Bookkeeping."""
        ...

    def key_checks(self) -> Mapping[str, bytes]:
        """Return the check values by which files of secret keys are recognised, by name."""
        ...

    def set_key_checks(self, checks: Mapping[str, bytes]) -> None:
        """Record check values for names that have none yet. Bookkeeping."""
        ...

    def drop_key_check(self, name: str) -> None:
        """Know a version of a file of secret keys no more. Bookkeeping."""
        ...

    def redigest(self, anew: Sequence[DigestUpgrade]) -> None:
        """Exchange digests, but for those that are not as they were found. Bookkeeping."""
        ...

    def keys_needing(self, pepper_version: int, now: datetime, limit: int) -> Sequence[str]:
        """Return up to `limit` access keys of those that need a version of the pepper.

        A key needs the version of its digest until it is revoked or its supersede_time has come:
        after either it is never valid again. One that is disabled or expired may be.
        """
        ...

    def sealed_until(self, pepper_version: int, now: datetime) -> datetime | None:
        """Return when the last token that is sealed under a version ends, None if there is none."""
        ...

    def record_refused(self, refused: Sequence[DeniedMutation]) -> None:
        """Keep refused mutations, and only the newest 10,000 of all. Bookkeeping."""
        ...


class Store(SnapshotReader, Protocol):
    """See the module's text."""

    @property
    def log_id(self) -> LogId:
        """The log that this store's revisions count in."""
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

        The paging of `query` is not looked at. What it names beyond the scope has no rows; a key
        must be of the project that it names. The place names a row: pass it as `after` (0 for the
        first page). None means that there is no more.
        """
        ...

    async def list_events(
        self, scope: Scope, query: EventQuery, after: int, limit: int
    ) -> tuple[Sequence[SignedEntry], int | None]:
        """Return up to `limit` entries of the log in order of revision, and where to go on.

        The paging of `query` is not looked at. A project or key beyond the scope has no entries;
        those of a key are those that name it and the one that made it. For a scope of projects,
        entries of no project are left out. The place is a revision, as with `list_keys`, and so
        are the bounds of a call: it may return fewer than `limit`, even none, with a place.
        """
        ...

    async def read_changes(self, after: int, limit: int) -> ChangePage:
        """Return up to `limit` changes behind a revision, and how far the log goes.

        It may return fewer than there are, but none only if there is none. Whoever has followed the
        log up to a revision that is beyond the head has seen what this store does not have. An
        engine whose reads alone do not prove how fresh they are says what it can in `as_of`.
        """
        ...

    async def moved(self, within: float) -> None:
        """Return once there may be changes that the last `read_changes` did not see.

        After `within` seconds at the latest, and as early as it likes; for one task at a time. A
        change that this process has committed ends the wait at once, another's within some
        milliseconds. It says nothing and promises nothing: only `read_changes` does.
        """
        ...

    async def schema_differences(self) -> Sequence[str]:
        """Return what the database has otherwise than the migrations make it, a line each."""
        ...

    async def log_head(self) -> LogHead:
        """Return what the counter row says, as it is now."""
        ...

    async def read_log(self, after: int, limit: int) -> Sequence[SignedEntry | CorruptEntry]:
        """Return up to `limit` rows of the log behind a revision, in order; none only at its end.

        It reads what is there, whatever was done to it: any revision, rows that are no entries.
        The previous_hash of an entry is the hash in the row before it, whatever its revision.
        Each entry comes with what earlier entries said last of the records that it changes.
        """
        ...

    async def compare_records(
        self, after: int, limit: int
    ) -> tuple[Sequence[Mismatch], int | None]:
        """Compare records with the newest change of each, for up to `limit` revisions.

        Those whose creation is numbered from `after` on, excluded (0 for the first call, which
        takes what is numbered below too), and where to go on, None if there is no more. Found are
        records that a change left otherwise, that it left and that are missing, and that none made.
        What no change records is not compared: digest, pepper version, last_used_time.
        """
        ...

    async def list_refused(self, limit: int) -> Sequence[DeniedMutation]:
        """Return the newest refused mutations, up to `limit`, oldest first."""
        ...

    async def write(self, work: Callable[[Transaction], T], *, urgent: bool = False) -> T:
        """Run `work` in a transaction, commit, and return what it returned.

        `work` must not block, and is committed once at most; it is run again only if all that it
        did was undone. Only what takes access away is `urgent`. Raises what `work` raises, and
        StoreUnavailable, StoreFull, StoreClosed.
        """
        ...

    async def newest_time(self) -> datetime | None:
        """Return the newest time that is committed, None for an empty log; see `Transaction`."""
        ...

    async def key_checks(self) -> Mapping[str, bytes]:
        """Return the check values by which files of secret keys are recognised, by name."""
        ...

    async def set_key_checks(self, checks: Mapping[str, bytes]) -> None:
        """Record check values for names that have none yet. Bookkeeping: makes no change."""
        ...

    async def digests(self, now: datetime) -> Sequence[PepperUsage]:
        """Return what was made under each version of the pepper that anything was made under.

        In the order of versions. It reads a row for each key: not for a timer.
        """
        ...

    async def versions_in_use(self, now: datetime) -> VersionsInUse:
        """Return which versions of the key files the log and its keys were made under.

        A pepper's version that is needed by no key any more may be missing.
        """
        ...

    async def keys_under_older(self, pepper_version: int, now: datetime) -> int:
        """Return how many keys need a version of the pepper before this one.

        It reads an index of as many entries as it counts.
        """
        ...

    async def close(self) -> None:
        """Finish the writes that were handed in, then let go of everything."""
        ...
