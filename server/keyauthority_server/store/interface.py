"""The contract of a store. Every engine meets it; one suite (`tests/store`) checks it.

**Consistency.** A `Snapshot` is one consistent state: key, project, operator and head belong to the
same revision. A unit of work passed to `Store.write` is atomic: it commits entirely or not at all.

**Changes.** `Transaction.apply` is the only way to change a key or project. It takes the next
revision from the one counter row, stamps the records with it, writes them, and appends the change
with the hash of the previous change, all in one transaction. So revision order is commit order,
revisions have no gap, and each change has exactly one entry in the log.

**The log is authoritative.** Snapshot reads, lists and mutations accept a record only if the log
has no later entry of it than its row names, and that entry holds an identical record. Otherwise the
call raises StoreDamaged: an older row that was written back is never served.

**Commit.** The engine commits after the work has returned, and before `write` returns. Results of
`write` survive kill -9 and loss of power. Work of several callers may share a commit; an exception
undoes only the work that raised it.

**Retries.** Reads may always be retried. A write that raised `StoreUnavailable` may have been
committed: repeat it only under a request_id, or read first.

**Full disk.** While space is low, before the disk is full, work that adds records raises StoreFull.
Urgent work, which takes access away, still runs: it has a reserve of space that nothing else may
use, bookkeeping included. Reads continue. Once space is free, all work resumes without a restart.

**Cancellation.** Cancelling a caller does not stop a submitted write: it commits or fails as if the
caller were still waiting.

**Bookkeeping** (upgraded digests, usage, last use, counters) makes no change and no revision.

**A closed store**, the source of a copy or an unfinished target, rejects changes and all
bookkeeping except counters with StoreReadOnly. It can be read, and its content no longer changes.

**Peppers.** The database recognises a version of the pepper by its check value, `pepper/<version>`
among the key checks; dropping a version deletes it. Digests and sealed tokens are made under the
newest version that the writing transaction recognises, so none is written under a dropped one.
Upgraded digests make no change; an engine that caches records must therefore never return a digest
under a dropped version.

**Counters** of limits have their own contract: `counters`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from keyauthority.model import Change, Key, LogId, Project, Revision, UsageRow
from keyauthority_server.store.rows import Rows
from keyauthority_server.store.snapshots import SnapshotReader
from keyauthority_server.store.types import (
    NO_READS,
    NOT_OBSERVED,
    Applied,
    ChangePage,
    DigestUpgrade,
    IdempotencyRecord,
    ImportedToken,
    LogHead,
    Mutation,
    Observations,
    Reads,
    Scope,
    StoredKey,
)

T = TypeVar("T")
P = ParamSpec("P")


class StoreError(Exception):
    """The store failed. Messages are for the server's log, never for a caller."""


class StoreUnavailable(StoreError):
    """The store cannot answer now; the outcome of a write is unknown. Try again later."""


class StoreDenied(StoreUnavailable):
    """The store rejects this server's login: unknown password, role or database."""


class StoreStale(StoreUnavailable):
    """The store answers, but the age of the answer is unknown. Try again later."""


class StoreDamaged(StoreUnavailable):
    """The requested records are damaged, or were altered by something other than a server."""


class StoreFull(StoreError):
    """The disk is full; nothing was committed. An operator must free space."""


class StoreReadOnly(StoreError):
    """The store is permanently closed for writing, as the source of a copy; nothing committed."""


class StoreUnusable(StoreError):
    """The store must not be opened: foreign, newer or damaged, or the library is unfit."""


class Transaction(Protocol):
    """The operations of work inside `Store.write`. Valid in one thread, until the work returns."""

    @property
    def head(self) -> Revision:
        """The newest revision, including those of this transaction."""
        ...

    @property
    def newest_time(self) -> datetime | None:
        """The newest committed time of a change or verification; see `count_usage`.

        A mutation never has an earlier time.
        """
        ...

    def query(
        self, read: Callable[Concatenate[Rows, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Return the result of a query of `sql.queries` that only reads.

        It gets the rows and the further arguments, and sees the changes of this transaction.
        """
        ...

    def bookkeep(
        self, write: Callable[Concatenate[Rows, P], None], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """Run a query of `sql.queries` that writes bookkeeping."""
        ...

    def key(self, access_key: str, scope: Scope) -> StoredKey | None:
        """Return the key as it is now, or None if it is absent or out of scope."""
        ...

    def project(self, project_id: str, scope: Scope) -> Project | None:
        """Return the project as it is now, or None if it is absent or out of scope."""
        ...

    def apply(self, mutation: Mutation) -> Applied:
        """Make one change; see the module's documentation.

        Raises StoreReadOnly, and ValueError for records that do not fit the mutation's type: one to
        create that exists, or one to change that does not.
        """
        ...

    def change(self, revision: Revision) -> Change:
        """Return a committed change, with the records as of that change."""
        ...

    def find_request(self, name: bytes, now: datetime) -> IdempotencyRecord | None:
        """Return the stored record of a request, or None if absent or expired. Bookkeeping."""
        ...

    def save_request(self, record: IdempotencyRecord, now: datetime) -> None:
        """Store the record of a request, and delete some expired ones. Bookkeeping."""
        ...

    def delete_sealed_tokens(self, access_key: str) -> None:
        """Delete every stored sealed token of a key. Bookkeeping."""
        ...

    def count_usage(
        self,
        batch_id: str,
        rows: Sequence[UsageRow],
        now: datetime,
        end: datetime,
        observed: Observations = NOT_OBSERVED,
    ) -> None:
        """Add counts to their hours and days, unless the batch was counted before. Bookkeeping.

        The batch id is kept until `end`. Each row moves last_used_time of its key, which must
        exist, only forward. Sums saturate at 2**63 - 1. Counting moves the store's newest time to
        `now`, only forward: a key that was seen as expired stays expired. Sightings add to those of
        the same key, cause and period, and replace those of another period; of each cause the
        newest 10,000 are kept.
        """
        ...

    def key_checks(self) -> Mapping[str, bytes]:
        """Return the check values that identify key files, by name."""
        ...

    def set_key_checks(self, checks: Mapping[str, bytes]) -> None:
        """Store check values for names that have none yet. Bookkeeping."""
        ...

    def drop_key_check(self, name: str) -> None:
        """Delete the check value of one key version. Bookkeeping."""
        ...

    def upgrade_digests(self, upgrades: Sequence[DigestUpgrade]) -> None:
        """Replace digests, except those that have changed since they were read. Bookkeeping."""
        ...


class Store(SnapshotReader, Protocol):
    """A store; the module documents its guarantees."""

    @property
    def log_id(self) -> LogId:
        """The id of the change log that this store's revisions belong to."""
        ...

    async def get_key(self, access_key: str, scope: Scope) -> Key | None:
        """Return the key, or None if it is absent or out of scope."""
        ...

    async def get_project(self, project_id: str, scope: Scope) -> Project | None:
        """Return the project, or None if it is absent or out of scope."""
        ...

    async def query(
        self, read: Callable[Concatenate[Rows, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Return the result of `read`, run outside the event loop over one consistent state.

        `read` gets the rows and the further arguments. It runs one of the queries in `sql.queries`,
        and may run again if the connection was lost.
        """
        ...

    async def find_imported(self, digests: Sequence[bytes]) -> Mapping[bytes, ImportedToken]:
        """Return the imported keys whose digests begin so; see `sql.queries.imports`."""
        ...

    async def read_changes(self, after: int, limit: int) -> ChangePage:
        """Return up to `limit` changes after a revision, and the head of the log.

        It may return fewer than exist, but returns an empty page only at the head. An `after`
        beyond the head shows that this store has lost changes that the caller has seen. An engine
        whose reads do not prove their freshness reports in `as_of` as much as it can prove.
        """
        ...

    async def wait_for_changes(self, within: float) -> None:
        """Wait until there may be changes after the last `read_changes`.

        Returns after `within` seconds at the latest, and may return early; for one task at a time.
        A commit of this process ends the wait at once, a commit of another within some
        milliseconds. The return proves nothing: only `read_changes` shows changes.
        """
        ...

    async def schema_differences(self) -> Sequence[str]:
        """Return the differences from the schema of the migrations, one line each."""
        ...

    async def log_head(self) -> LogHead:
        """Return the current content of the counter row."""
        ...

    async def write(
        self, work: Callable[[Transaction], T], *, urgent: bool = False, reads: Reads = NO_READS
    ) -> T:
        """Run `work` in a transaction, commit, and return its result.

        `work` must not block, and is committed at most once; it runs again only after all its
        effects were undone. Only work that takes access away is `urgent`. Records named by `reads`
        are read together with those of other waiting writes, where a read is a network round trip.
        Raises the exceptions of `work`, and StoreUnavailable, StoreFull, StoreReadOnly.
        """
        ...

    async def check(self) -> None:
        """Raise StoreError unless records can be read now, from the store and not from a cache."""
        ...

    def check_writer(self) -> None:
        """Raise StoreError once no change can be committed until the server is restarted."""
        ...

    async def newest_time(self) -> datetime | None:
        """Return the newest committed time, None for an empty log; see `Transaction`."""
        ...

    async def key_checks(self) -> Mapping[str, bytes]:
        """Return the check values that identify key files, by name."""
        ...

    async def set_key_checks(self, checks: Mapping[str, bytes]) -> None:
        """Store check values for names that have none yet. Bookkeeping."""
        ...

    async def close(self) -> None:
        """Finish the submitted writes, then release all resources."""
        ...
