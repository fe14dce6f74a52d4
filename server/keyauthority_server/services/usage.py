"""Usage service: reads verification counts, and adds counts from in-process verifiers."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from keyauthority.model import UsageRow
from keyauthority.requests import UsageQuery, UsageReport
from keyauthority.results import Page
from keyauthority_server.metering.usage import BATCH_ID_LIFETIME
from keyauthority_server.services.context import ServiceContext
from keyauthority_server.services.principal import Principal
from keyauthority_server.store.interface import Transaction
from keyauthority_server.store.sql.queries.usage import list_usage
from keyauthority_server.store.sql.scopes import in_scope


class Usage:
    """Reads and adds counts."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context

    async def get(
        self, caller: Principal, query: UsageQuery, content: bytes, page_size: int
    ) -> Page[UsageRow]:
        """Return a page of the counts in the caller's scope.

        `content` is the fingerprint of the query. NotFound for a project or key outside the
        caller's scope, and for a key of another project.
        """
        store, pages = self._context.store, self._context.pages
        cursor = pages.decode(caller.actor, content, query.page_token)
        await self._context.require_visible(caller, query.project_id, query.access_key)
        rows, next_cursor = await store.query(list_usage, caller.scope, query, cursor, page_size)
        return Page(tuple(rows), pages.encode(caller.actor, content, next_cursor))

    async def report(self, caller: Principal, report: UsageReport) -> None:
        """Add counts, once for each batch_id; skip rows of keys outside the caller's scope.

        Times in the future are stored as now.
        """
        snapshots = await self._context.store.read_many(
            [row.access_key for row in report.rows], None
        )
        now = self._context.clock.now()
        rows = [
            _counted(row, stored.key.project_id, now)
            for row, (stored, _) in zip(report.rows, snapshots.pairs, strict=True)
            if stored is not None
            and stored.key.project_id
            and in_scope(stored.key, caller.scope)
            and row.project_id in ("", stored.key.project_id)
            and row.count
        ]

        def work(transaction: Transaction, current: Principal, time: datetime) -> None:
            transaction.count_usage(report.batch_id.lower(), rows, time, time + BATCH_ID_LIFETIME)

        await self._context.mutate(caller, "usage:report", work)


def _counted(row: UsageRow, project_id: str, now: datetime) -> UsageRow:
    return replace(
        row,
        project_id=project_id,
        bucket_time=min(row.bucket_time, now),
        last_used_time=min(row.last_used_time, now),
    )
