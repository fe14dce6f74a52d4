"""The paged reads of `interface.Store`, the same for every engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import TypeVar

from keyauthority.model import Key, KeyFilter, Project, UsageRow
from keyauthority.requests import EventQuery, UsageQuery
from keyauthority_server.store.sql import reconcile
from keyauthority_server.store.sql.log_head import read_head
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
    """The reads of a verification of the chain."""

    @abstractmethod
    async def page(self, read: Callable[[Rows], T]) -> T:
        """Run `read` in one read transaction, in a thread."""

    @abstractmethod
    async def schema_differences(self) -> Sequence[str]:
        """Return the differences from the schema of the migrations, one line each."""

    async def log_head(self) -> LogHead:
        """Return the current content of the counter row."""
        return await self.page(read_head)

    async def read_log(self, after: int, limit: int) -> Sequence[SignedEntry | CorruptEntry]:
        """Return up to `limit` rows of the log, with any content."""
        return await self.page(lambda rows: events.read_log(rows, after, limit))

    async def compare_records(
        self, after: int, limit: int
    ) -> tuple[Sequence[Mismatch], int | None]:
        """Compare records with the newest change of each."""
        return await self.page(lambda rows: reconcile.compare_records(rows, after, limit))


class PagedReads(AuditReader):
    """Reads that run outside the event loop; `interface.Store` documents each."""

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
        """Return up to `limit` keys in order of creation, and the next cursor."""
        where = lists.search(project_id, scope, key_filter, now)
        if where is None:
            return [], None
        asked = self.asked(where.projects)
        return await self.page(lambda rows: lists.list_keys(rows, asked, where, after, limit))

    async def list_projects(
        self, scope: Scope, after: int, limit: int
    ) -> tuple[Sequence[Project], int | None]:
        """Return up to `limit` projects in order of creation, and the next cursor."""
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
        """Return the newest denied mutations, up to `limit`, oldest first."""
        return await self.page(lambda rows: denied_mutations.list_refused(rows, limit))

    async def digests(self, now: datetime) -> Sequence[PepperUsage]:
        """Return the use of each pepper version that is in use."""
        return await self.page(lambda rows: digests.digests(rows, now))

    async def versions_in_use(self, now: datetime) -> VersionsInUse:
        """Return the key versions that the log and its keys depend on."""
        return await self.page(lambda rows: digests.versions_in_use(rows, now))

    async def keys_under_older(self, pepper_version: int, now: datetime) -> int:
        """Return how many keys need an older version of the pepper than this one."""
        return await self.page(lambda rows: digests.keys_under_older(rows, pepper_version, now))
