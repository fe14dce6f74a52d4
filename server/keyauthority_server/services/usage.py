"""Usage service: reads verification counts, and adds counts from in-process verifiers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from keyauthority.model import UNRESTRICTED, Key, UsageRow
from keyauthority.permissions import narrowest
from keyauthority.requests import KeyObservation, UsageQuery, UsageReport
from keyauthority.results import Page
from keyauthority_server.metering.observing import sightings
from keyauthority_server.metering.usage import BATCH_ID_LIFETIME
from keyauthority_server.services.context import ServiceContext
from keyauthority_server.services.principal import Principal
from keyauthority_server.services.time_slices import TimeSlices
from keyauthority_server.store.interface import Transaction
from keyauthority_server.store.sql.queries.usage import list_usage
from keyauthority_server.store.sql.scopes import in_scope
from keyauthority_server.store.types import Observations, PermissionUse, Sighting

KEYS_AT_ONCE: Final = 64  # that are read together


class Usage:
    """Reads and adds counts."""

    def __init__(self, context: ServiceContext, slices: TimeSlices) -> None:
        self._context = context
        self._slices = slices

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
        keys = await self._keys(report)
        now = self._context.clock.now()
        counted = [
            (_counted(row, key.project_id, now), key)
            for row in report.rows
            if (key := keys.get(row.access_key)) is not None
            and key.project_id
            and in_scope(key, caller.scope)
            and row.project_id in ("", key.project_id)
            and row.count
        ]
        rows = [row for row, _ in counted]
        observed = await self._observed(counted, report)

        def work(transaction: Transaction, current: Principal, time: datetime) -> None:
            batch_id, end = report.batch_id.lower(), time + BATCH_ID_LIFETIME
            transaction.count_usage(batch_id, rows, time, end, observed)

        await self._context.mutate(caller, "usage:report", work)

    async def _keys(self, report: UsageReport) -> Mapping[str, Key]:
        """Return the keys of a report by name, without their restrictions.

        Restrictions take up to a megabyte each, and a report may name 1,000 keys.
        """
        names, keys = sorted({row.access_key for row in report.rows}), dict[str, Key]()
        for start in range(0, len(names), KEYS_AT_ONCE):
            part = names[start : start + KEYS_AT_ONCE]
            snapshots = await self._context.store.read_many(part, None)
            for name, (stored, _) in zip(part, snapshots.pairs, strict=True):
                if stored is not None:
                    keys[name] = replace(stored.key, restrictions=UNRESTRICTED)
        return keys

    async def _observed(
        self, counted: Sequence[tuple[UsageRow, Key]], report: UsageReport
    ) -> Observations:
        """Return the observations of the counted rows; those of other keys are skipped.

        Of the days of a permission only the newest is stored.
        """
        reported = {observation.access_key: observation for observation in report.observations}
        keys, days = dict[str, Key](), dict[str, datetime]()
        sighted: list[Sighting] = []
        for row, key in counted:
            name, time = key.access_key, row.last_used_time
            peer = reported.get(name, _NOTHING).last_peer
            sighted += sightings(key, row.verdict, row.count, (time, time), peer)
            day = time.replace(hour=0, minute=0, second=0, microsecond=0)
            keys[name], days[name] = key, max(day, days.get(name, day))
        uses: set[PermissionUse] = set()
        with self._slices.begin() as slices:
            for name in reported.keys() & keys.keys():
                for permission in reported[name].permissions:
                    for grant in narrowest(keys[name].permissions, permission):
                        uses.add(PermissionUse(name, grant, days[name]))
                    if slices.are_over():
                        await slices.pause()
        return Observations(sighted, sorted(uses))


_NOTHING: Final = KeyObservation(access_key="")


def _counted(row: UsageRow, project_id: str, now: datetime) -> UsageRow:
    return replace(
        row,
        project_id=project_id,
        bucket_time=min(row.bucket_time, now),
        last_used_time=min(row.last_used_time, now),
    )
