"""The reads of `base.Store` that take more than a moment, the same for every engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import TypeVar

from keyauthority.model import Key, KeyFilter, Project, UsageRow
from keyauthority.requests import EventQuery, UsageQuery
from keyauthority_server.store.sql import reconcile
from keyauthority_server.store.sql.queries import denied_mutations, digests, events, lists, usage
from keyauthority_server.store.sql.queries.lists import ValuesTable
from keyauthority_server.store.sql.statements import Rows
from keyauthority_server.store.types import (
    CorruptEntry,
    DeniedMutation,
    LogHead,
    Mismatch,
    PepperUsage,
    Scope,
    SignedEntry,
    VersionsInUse,
)

T = TypeVar("T")


class AuditReader(ABC):
    """What a verification of the chain reads."""

    @abstractmethod
    async def page(self, read: Callable[[Rows], T]) -> T:
        """Run `read` in one read transaction, in a thread."""

    @abstractmethod
    async def schema_differences(self) -> Sequence[str]:
        """Return what the database has otherwise than the migrations make it, a line each."""

    async def log_head(self) -> LogHead:
        """Return what the counter row says, as it is now."""
        return await self.page(events.log_head)

    async def read_log(self, after: int, limit: int) -> Sequence[SignedEntry | CorruptEntry]:
        """Return up to `limit` rows of the log, whatever they hold."""
        return await self.page(lambda rows: events.read_log(rows, after, limit))

    async def compare_records(
        self, after: int, limit: int
    ) -> tuple[Sequence[Mismatch], int | None]:
        """Compare records with the newest change of each."""
        return await self.page(lambda rows: reconcile.compare_records(rows, after, limit))


class PagedReads(AuditReader):
    """What a store reads beside its event loop; see `base.Store` for each."""

    @abstractmethod
    def asked(self, values: Iterable[str]) -> ValuesTable:
        """Return values as a table."""

    async def list_keys(
        self,
        project_id: str | None,
        scope: Scope,
        key_filter: KeyFilter,
        now: datetime,
        after: int,
        limit: int,
    ) -> tuple[Sequence[Key], int | None]:
        """Return up to `limit` keys in the order of their creation, and where to go on."""
        where = lists.search(project_id, scope, key_filter, now)
        if where is None:
            return [], None
        asked = self.asked(where.projects)
        return await self.page(lambda rows: lists.list_keys(rows, asked, where, after, limit))

    async def list_projects(
        self, scope: Scope, after: int, limit: int
    ) -> tuple[Sequence[Project], int | None]:
        """Return up to `limit` projects in the order of their creation, and where to go on."""
        asked = self.asked(sorted(scope or ()))
        return await self.page(lambda rows: lists.list_projects(rows, asked, scope, after, limit))

    async def list_usage(
        self, scope: Scope, query: UsageQuery, after: int, limit: int
    ) -> tuple[Sequence[UsageRow], int | None]:
        """Return up to `limit` rows in order of time, access key and verdict."""
        return await self.page(lambda rows: usage.list_usage(rows, scope, query, after, limit))

    async def list_events(
        self, scope: Scope, query: EventQuery, after: int, limit: int
    ) -> tuple[Sequence[SignedEntry], int | None]:
        """Return up to `limit` entries of the log in order of revision."""
        asked = self.asked(sorted(scope or ()))
        return await self.page(
            lambda rows: events.list_events(rows, asked, scope, query, after, limit)
        )

    async def list_refused(self, limit: int) -> Sequence[DeniedMutation]:
        """Return the newest refused mutations, up to `limit`, oldest first."""
        return await self.page(lambda rows: denied_mutations.list_refused(rows, limit))

    async def digests(self, now: datetime) -> Sequence[PepperUsage]:
        """Return what was made under each version of the pepper."""
        return await self.page(lambda rows: digests.digests(rows, now))

    async def versions_in_use(self, now: datetime) -> VersionsInUse:
        """Return which versions of the key files the log and its keys were made under."""
        return await self.page(lambda rows: digests.versions_in_use(rows, now))

    async def keys_under_older(self, pepper_version: int, now: datetime) -> int:
        """Return how many keys need a version of the pepper before this one."""
        return await self.page(lambda rows: digests.keys_under_older(rows, pepper_version, now))
