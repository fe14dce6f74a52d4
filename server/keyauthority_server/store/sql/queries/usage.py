"""Storage and listing of verification counts, the same for both engines."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from keyauthority.convert import VERDICT_FROM_PROTO, VERDICT_TO_PROTO
from keyauthority.model import UsageGranularity, UsageRow
from keyauthority.requests import UsageQuery
from keyauthority_server.store.interface import StoreDamaged, StoreError
from keyauthority_server.store.rows import Row, Rows, SetStatement
from keyauthority_server.store.sql.row_codec import (
    INTEGER_MAX,
    MICROSECOND,
    microseconds,
    time_from,
)
from keyauthority_server.store.sql.scopes import is_within_scope
from keyauthority_server.store.types import Scope

BATCHES_DROPPED: Final = 4  # for each one stored: deletion outruns insertion

_LENGTHS: Final = {
    UsageGranularity.HOUR: timedelta(hours=1) // MICROSECOND,
    UsageGranularity.DAY: timedelta(days=1) // MICROSECOND,
}
_NEVER_USED: Final = -INTEGER_MAX

# Sums saturate at the largest number, 2**63 - 1.
_ADD: Final = SetStatement(
    """
    INSERT INTO usage (granularity, bucket_time, access_key, verdict, project_id,
        count, cost, last_used_time)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (granularity, bucket_time, access_key, verdict) DO UPDATE SET
        count = CASE WHEN usage.count > 9223372036854775807 - excluded.count
            THEN 9223372036854775807 ELSE usage.count + excluded.count END,
        cost = CASE WHEN usage.cost > 9223372036854775807 - excluded.cost
            THEN 9223372036854775807 ELSE usage.cost + excluded.cost END,
        last_used_time = CASE WHEN usage.last_used_time > excluded.last_used_time
            THEN usage.last_used_time ELSE excluded.last_used_time END
    """,
    ("TEXT", "BIGINT", "TEXT", "BIGINT", "TEXT", "BIGINT", "BIGINT", "BIGINT"),
)
_TOUCH: Final = SetStatement(
    """
    UPDATE key SET last_used_time = ?2
    WHERE access_key = ?1 AND (last_used_time IS NULL OR last_used_time < ?2)
    """,
    ("TEXT", "BIGINT"),
    """
    UPDATE key SET last_used_time = newest.used FROM {given} AS newest (access_key, used)
    WHERE key.access_key = newest.access_key
        AND (key.last_used_time IS NULL OR key.last_used_time < newest.used)
    """,
)

_GET_BATCH: Final = "SELECT 1 FROM usage_batch WHERE batch_id = ? AND end_time > ?"
_DROP_BATCHES: Final = """
    DELETE FROM usage_batch WHERE batch_id IN
        (SELECT batch_id FROM usage_batch WHERE end_time <= ? ORDER BY end_time LIMIT ?)
    """
_PUT_BATCH: Final = """
    INSERT INTO usage_batch (batch_id, end_time) VALUES (?, ?)
    ON CONFLICT (batch_id) DO UPDATE SET end_time = excluded.end_time
    """
_DROP_BATCH: Final = "DELETE FROM usage_batch WHERE batch_id = ?"

_GET_CURSOR: Final = "SELECT bucket_time, access_key, verdict FROM usage WHERE id = ?"
_LIST_ALL: Final = """
    SELECT id, bucket_time, access_key, verdict, project_id, count, cost, last_used_time
    FROM usage
    WHERE granularity = ? AND (bucket_time, access_key, verdict) > (?, ?, ?) AND bucket_time < ?
    ORDER BY bucket_time, access_key, verdict LIMIT ?
    """
_LIST_PROJECT: Final = """
    SELECT id, bucket_time, access_key, verdict, project_id, count, cost, last_used_time
    FROM usage
    WHERE project_id = ? AND granularity = ?
        AND (bucket_time, access_key, verdict) > (?, ?, ?) AND bucket_time < ?
    ORDER BY bucket_time, access_key, verdict LIMIT ?
    """
_LIST_KEY: Final = """
    SELECT id, bucket_time, access_key, verdict, project_id, count, cost, last_used_time
    FROM usage
    WHERE access_key = ? AND granularity = ?
        AND (bucket_time, verdict) > (?, ?) AND bucket_time < ?
    ORDER BY bucket_time, verdict LIMIT ?
    """


def count(
    rows: Rows, batch_id: str, counts: Sequence[UsageRow], now: datetime, end: datetime
) -> bool:
    """Add counts; False if the batch was counted before. See `Transaction.count_usage`."""
    time = microseconds(now)
    if rows.one(_GET_BATCH, (batch_id, time)) is not None:
        return False
    rows.run(_DROP_BATCHES, (time, BATCHES_DROPPED))
    rows.run(_PUT_BATCH, (batch_id, microseconds(end)))
    added, newest = _added(counts)
    rows.run_set(_ADD, added)
    rows.run_set(_TOUCH, list(newest.items()))
    return True


def delete_usage_batch(rows: Rows, batch_id: str) -> None:
    """Delete a batch id."""
    rows.run(_DROP_BATCH, (batch_id,))


def list_usage(
    rows: Rows, scope: Scope, query: UsageQuery, after: int, limit: int
) -> tuple[list[UsageRow], int | None]:
    """Return up to `limit` rows by time, access key and verdict, and the next cursor.

    The paging fields of `query` are ignored. A project or key outside the scope has no rows; a
    named key must belong to the named project. The cursor is the id of a row: pass it as `after`
    (0 for the first page). None marks the last page.
    """
    if not is_within_scope(rows, scope, query.project_id, query.access_key):
        return [], None
    found = rows.one(_GET_CURSOR, (after,)) if after else (_start(query), "", 0)
    if found is None:
        raise StoreError("the row of the page's cursor is missing")
    end = INTEGER_MAX if query.end_time is None else microseconds(query.end_time)
    page: list[UsageRow] = []
    last = 0
    for row in _found(rows, scope, query, found, end, limit + 1):
        if len(page) == limit:
            return page, last
        page.append(_usage_row(row))
        last = row[0]
    return page, None


def _start(query: UsageQuery) -> int:
    if query.start_time is None:
        return -INTEGER_MAX
    time = microseconds(query.start_time)
    return time - time % _LENGTHS[query.granularity]


def _found(
    rows: Rows, scope: Scope, query: UsageQuery, cursor: Row, end: int, limit: int
) -> Iterable[Row]:
    granularity = query.granularity.value
    if query.access_key:
        bucket_time, _, verdict = cursor
        values = (query.access_key, granularity, bucket_time, verdict, end, limit)
        return rows.each(_LIST_KEY, values)
    bounds = (granularity, *cursor, end, limit)
    if query.project_id:
        return rows.each(_LIST_PROJECT, (query.project_id, *bounds))
    if scope is None:
        return rows.each(_LIST_ALL, bounds)
    return heapq.merge(
        *(rows.each(_LIST_PROJECT, (project_id, *bounds)) for project_id in sorted(scope)),
        key=_order,
    )


def _order(row: Row) -> Any:
    return row[1:4]


def _added(counts: Iterable[UsageRow]) -> tuple[list[tuple[Any, ...]], dict[str, int]]:
    """Return the values to add for each hour and day, and the newest use of each key.

    Each row of the table has its values once. Those that most rows share are converted once.
    """
    added: dict[tuple[Any, ...], tuple[int, int, int]] = {}
    newest: dict[str, int] = {}
    verdict, bucket_time, number = None, None, 0
    starts: list[tuple[str, int]] = []
    for row in counts:
        if row.verdict is not verdict:
            verdict, number = row.verdict, VERDICT_TO_PROTO[row.verdict]
        if row.bucket_time is not bucket_time:
            bucket_time, time = row.bucket_time, microseconds(row.bucket_time)
            starts = [
                (granularity.value, time - time % length)
                for granularity, length in _LENGTHS.items()
            ]
        access_key, used = row.access_key, microseconds(row.last_used_time)
        sums = (row.count, row.cost, used)
        for start in starts:
            bucket = (*start, access_key, number, row.project_id)
            other = added.get(bucket)
            added[bucket] = sums if other is None else _sum(sums, other)
        if used > newest.get(access_key, _NEVER_USED):
            newest[access_key] = used
    return [
        (*bucket, min(count, INTEGER_MAX), min(cost, INTEGER_MAX), used)
        for bucket, (count, cost, used) in added.items()
    ], newest


def _sum(one: tuple[int, int, int], other: tuple[int, int, int]) -> tuple[int, int, int]:
    (count, cost, used), (others, others_cost, others_used) = one, other
    return count + others, cost + others_cost, max(used, others_used)


def _usage_row(row: Row) -> UsageRow:
    _, bucket_time, access_key, verdict, project_id, counted, cost, last_used_time = row
    if verdict not in VERDICT_FROM_PROTO:
        raise StoreDamaged(f"usage of the verdict {verdict!r}: damaged or altered")
    return UsageRow(
        project_id=project_id,
        access_key=access_key,
        verdict=VERDICT_FROM_PROTO[verdict],
        bucket_time=time_from(bucket_time),
        count=counted,
        cost=cost,
        last_used_time=time_from(last_used_time),
    )
