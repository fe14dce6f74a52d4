"""Use cases of usage: counts of verifications are shown, and taken from in-process verifiers."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from keyauthority.errors import ErrorReason
from keyauthority.model import UsageRow
from keyauthority.requests import UsageQuery, UsageReport
from keyauthority.results import Page
from keyauthority_server.metering.usage import REMEMBERED_FOR
from keyauthority_server.services.context import ServiceContext, gone
from keyauthority_server.services.principal import Principal
from keyauthority_server.store.interface import Transaction
from keyauthority_server.store.sql.scopes import in_scope


class Usage:
    """Shows and takes counts."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context

    async def get(
        self, caller: Principal, query: UsageQuery, content: bytes, page_size: int
    ) -> Page[UsageRow]:
        """Return a page of the caller's counts.

        `content` is the query in bytes that tell it from any other. NotFound for a project or key
        that is not the caller's, and for a key that is not of the project.
        """
        store, pages = self._context.store, self._context.pages
        place = pages.place(caller.actor, content, query.page_token)
        if query.project_id and await store.get_project(query.project_id, caller.scope) is None:
            raise gone(ErrorReason.PROJECT_NOT_FOUND)
        if query.access_key:
            key = await store.get_key(query.access_key, caller.scope)
            if key is None or query.project_id not in ("", key.project_id):
                raise gone(ErrorReason.KEY_NOT_FOUND)
        rows, after = await store.list_usage(caller.scope, query, place, page_size)
        return Page(tuple(rows), pages.token(caller.actor, content, after))

    async def report(self, caller: Principal, report: UsageReport) -> None:
        """Add counts, once for each batch_id; leave out what is of keys that are not the caller's.

        What is said to have been later than now, was now.
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

        def work(transaction: Transaction, present: Principal, time: datetime) -> None:
            transaction.count_usage(report.batch_id.lower(), rows, time, time + REMEMBERED_FOR)

        await self._context.change(caller, "usage:report", work)


def _counted(row: UsageRow, project_id: str, now: datetime) -> UsageRow:
    return replace(
        row,
        project_id=project_id,
        bucket_time=min(row.bucket_time, now),
        last_used_time=min(row.last_used_time, now),
    )
