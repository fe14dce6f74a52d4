"""Usage rows: how verification counts add up, and how they are listed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from keyauthority.model import Key, UsageGranularity, UsageRow, VerdictCode
from keyauthority.requests import UsageQuery
from keyauthority_server.store.interface import Store, Transaction
from keyauthority_server.store.sql.queries import observations, usage
from keyauthority_server.store.sql.queries.usage import delete_usage_batch, list_usage
from keyauthority_server.store.types import Observations, PermissionUse, Scope
from tests.store.engines import Engine, Sqlite, digests
from tests.store.factories import NOON, SECOND, create, create_project, key

HOUR = timedelta(hours=1)
LONG = timedelta(hours=24)
EVERYTHING = UsageQuery()
DAYS = UsageQuery(granularity=UsageGranularity.DAY)


def row(record: Key, count: int = 1, **fields: object) -> UsageRow:
    """Return a count of a key's verifications at noon."""
    made = UsageRow(
        project_id=record.project_id,
        access_key=record.access_key,
        verdict=VerdictCode.VALID,
        bucket_time=NOON,
        count=count,
        cost=count,
        last_used_time=NOON,
    )
    return replace(made, **fields)  # type: ignore[arg-type]


async def count(
    store: Store, *rows: UsageRow, batch_id: str = "", now: datetime = NOON, end: datetime = NOON
) -> None:
    """Count a batch."""

    def work(transaction: Transaction) -> None:
        transaction.count_usage(batch_id or str(uuid4()), rows, now, max(end, now + LONG))

    await store.write(work)


async def listed(
    store: Store, query: UsageQuery = EVERYTHING, scope: Scope = None, limit: int = 3
) -> list[UsageRow]:
    """Return all pages, each within its bound."""
    found: list[UsageRow] = []
    after: int | None = 0
    while after is not None:
        page, after = await store.query(list_usage, scope, query, after, limit)
        assert len(page) == limit or after is None
        found += page
    return found


async def keys_of(store: Store, projects: int, each: int) -> list[Key]:
    """Make projects and keys of each."""
    ids = [(await create_project(store)).project_id for _ in range(projects)]
    return [await create(store, key(one)) for one in ids for _ in range(each)]


def hour(time: datetime) -> datetime:
    """Return the start of its hour."""
    return time.replace(minute=0, second=0, microsecond=0)


async def test_counts_of_one_hour_add_up(store: Store) -> None:
    """Counts of one key, hour and verdict share a row with their sum and the newest use."""
    (one,) = await keys_of(store, 1, 1)
    later = hour(NOON) + HOUR - SECOND
    await count(store, row(one, 3, cost=7), row(one, 2, bucket_time=later, last_used_time=later))
    await count(store, row(one, 1, verdict=VerdictCode.EXPIRED, cost=0))
    await count(store, row(one, 1, bucket_time=hour(NOON), last_used_time=NOON - SECOND))
    valid = row(one, 6, cost=10, bucket_time=hour(NOON), last_used_time=later)
    denied = row(one, 1, verdict=VerdictCode.EXPIRED, cost=0, bucket_time=hour(NOON))
    assert [valid, denied] == await listed(store)


async def test_day_rows_sum_their_hours(store: Store) -> None:
    """A day's row is the sum of its 24 hours in UTC."""
    (one,) = await keys_of(store, 1, 1)
    start = hour(NOON) - 12 * HOUR
    for number in range(-1, 25):
        time = start + number * HOUR
        await count(store, row(one, 2, bucket_time=time, last_used_time=time))
    expected = [(-1, 2, -1), (0, 48, 23), (24, 2, 24)]
    assert [
        (start - 24 * HOUR if first < 0 else start + first * HOUR, total, start + last * HOUR)
        for first, total, last in expected
    ] == [
        (found.bucket_time, found.count, found.last_used_time)
        for found in await listed(store, DAYS)
    ]
    assert 26 == len(await listed(store))


async def test_repeated_batch_counts_once(store: Store, engine: Engine, place: str) -> None:
    """A batch submitted again changes nothing while its id is stored."""
    (one,) = await keys_of(store, 1, 1)
    await count(store, row(one, 5), batch_id="b")
    before = digests(engine, place)
    await count(store, row(one, 9), batch_id="b", now=NOON + LONG - SECOND)
    assert before == digests(engine, place)
    await count(store, row(one, 9), batch_id="b", now=NOON + LONG)
    assert [14] == [found.count for found in await listed(store)]


async def test_expired_batch_ids_are_deleted(store: Store, engine: Engine, place: str) -> None:
    """Stored batch ids do not accumulate; a forgotten one is deleted at once."""
    for number in range(20):
        await count(store, batch_id=f"old {number}")
    for _ in range(5):
        await count(store, now=NOON + LONG)
    await store.write(lambda transaction: transaction.bookkeep(delete_usage_batch, "old 19"))
    assert 5 == len(engine.rows(place, "SELECT 1 FROM usage_batch"))


async def test_last_use_only_moves_forward(store: Store) -> None:
    """The key shows its latest use, for any verdict and any order of the counts."""
    one, other = await keys_of(store, 1, 2)
    expected = None
    for seconds, newest in ((5, 5), (3, 5), (9, 9)):
        time, expected = NOON + seconds * SECOND, NOON + newest * SECOND
        denied = row(one, 1, verdict=VerdictCode.REVOKED, cost=0, last_used_time=time)
        await count(store, denied, row(one, 1, last_used_time=time - SECOND))
        used = await store.get_key(one.access_key, None)
        assert used == replace(one, last_used_time=expected)
    assert other == await store.get_key(other.access_key, None)


async def test_transaction_reads_its_own_usage(store: Store) -> None:
    """The transaction sees the new last use even if it had read the key before."""
    (one,) = await keys_of(store, 1, 1)

    def work(transaction: Transaction) -> list[datetime | None]:
        seen = [transaction.key(one.access_key, None)]
        transaction.count_usage(str(uuid4()), [row(one)], NOON, NOON + LONG)
        seen.append(transaction.key(one.access_key, None))
        return [held.key.last_used_time for held in seen if held]

    assert [None, NOON] == await store.write(work)


async def test_counting_makes_no_change(store: Store, engine: Engine, place: str) -> None:
    """Usage uses no revision and no entry, and writes no row but its own and the last use."""
    one, _ = await keys_of(store, 1, 2)
    before = digests(engine, place)
    await count(store, row(one))
    after = digests(engine, place)
    changed = {
        table: {name for name in before[table] if after[table][name] != before[table][name]}
        for table in before
    }
    assert {"key": {one.access_key}} == {table: names for table, names in changed.items() if names}
    assert {"usage": 2, "usage_batch": 1} == {
        table: len(after[table]) - len(rows)
        for table, rows in before.items()
        if len(after[table]) != len(rows)
    }


async def test_sums_saturate_at_the_largest_integer(store: Store) -> None:
    """A sum beyond 64 bits stays at the largest number and raises no error."""
    (one,) = await keys_of(store, 1, 1)
    most = 2**63 - 1
    await count(store, row(one, most), row(one, 1))
    await count(store, row(one, 1, cost=2**70))
    assert [(most, most)] == [(found.count, found.cost) for found in await listed(store)]


async def test_usage_pages_are_ordered_by_time_key_and_verdict(store: Store) -> None:
    """Pages hold each row once, in order, under every filter."""
    keys = await keys_of(store, 3, 4)
    verdicts = (VerdictCode.VALID, VerdictCode.REVOKED, VerdictCode.DISABLED)
    rows = [
        row(one, 1, verdict=verdict, bucket_time=hour(NOON) + number * HOUR)
        for one in keys
        for verdict in verdicts
        for number in range(3)
    ]
    await count(store, *reversed(rows))
    rank = list(VerdictCode).index
    rows.sort(key=lambda one: (one.bucket_time, one.access_key, rank(one.verdict)))
    first, second = keys[0], keys[4]
    scope = frozenset({first.project_id, second.project_id})
    cases: Sequence[tuple[Scope, UsageQuery, set[str]]] = (
        (None, EVERYTHING, {one.project_id for one in keys}),
        (scope, EVERYTHING, set(scope)),
        (scope, UsageQuery(project_id=first.project_id), {first.project_id}),
        (frozenset(), EVERYTHING, set()),
    )
    for bounds, query, projects in cases:
        expected = [one for one in rows if one.project_id in projects]
        assert expected == await listed(store, query, bounds, limit=4)
    query = UsageQuery(access_key=second.access_key, project_id=second.project_id)
    for bounds in (None, scope):
        assert [one for one in rows if one.access_key == second.access_key] == await listed(
            store, query, bounds
        )


async def test_scope_restricts_usage_queries(store: Store) -> None:
    """A project or key outside the scope has no rows, even if named."""
    mine, foreign = await keys_of(store, 2, 1)
    await count(store, row(mine, 1), row(foreign, 1))
    scope = frozenset({mine.project_id})
    for query in (
        UsageQuery(project_id=foreign.project_id),
        UsageQuery(access_key=foreign.access_key),
        UsageQuery(access_key="KA000000000000000000"),
    ):
        assert [] == await listed(store, query, scope)


@pytest.mark.parametrize(
    ("start", "end", "hours"),
    [
        (None, None, {0, 1, 2, 3}),
        (HOUR + SECOND, None, {1, 2, 3}),
        (None, 2 * HOUR, {0, 1}),
        (HOUR, 2 * HOUR + SECOND, {1, 2}),
        (2 * HOUR, HOUR, set()),
    ],
)
async def test_interval_includes_start_and_excludes_end(
    store: Store, start: timedelta | None, end: timedelta | None, hours: set[int]
) -> None:
    """start_time is rounded down to the hour and included; end_time is excluded."""
    (one,) = await keys_of(store, 1, 1)
    base = hour(NOON)
    await count(store, *(row(one, 1, bucket_time=base + number * HOUR) for number in range(4)))
    for query in (EVERYTHING, UsageQuery(access_key=one.access_key)):
        bounded = replace(
            query,
            start_time=None if start is None else base + start,
            end_time=None if end is None else base + end,
        )
        found = await listed(store, bounded)
        assert hours == {(each.bucket_time - base) // HOUR for each in found}


async def test_times_before_the_epoch_round_down(store: Store) -> None:
    """An instant belongs to the hour that contains it, in any year."""
    (one,) = await keys_of(store, 1, 1)
    time = datetime(1, 1, 1, 5, 30, tzinfo=UTC)
    await count(store, row(one, 1, bucket_time=time, last_used_time=time))
    assert [time.replace(minute=0)] == [found.bucket_time for found in await listed(store)]


def test_usage_pages_use_indexes(tmp_path: Path) -> None:
    """No page scans the table or sorts more rows than it returns."""
    place = Sqlite().make(tmp_path)
    for statement in (usage._LIST_ALL, usage._LIST_PROJECT, usage._LIST_KEY):
        plan = "EXPLAIN QUERY PLAN " + statement.replace("?", "1")
        told = " ".join(step[3] for step in Sqlite().rows(place, plan))
        assert "SCAN" not in told
        assert "TEMP B-TREE" not in told


async def test_counting_only_moves_the_newest_time_forward(
    store: Store, engine: Engine, place: str
) -> None:
    """A clock set back cannot start behind a verification or date a change earlier."""
    record = await create(store, key((await create_project(store)).project_id))
    for now in (NOON + HOUR, NOON + SECOND):
        await count(store, row(record, last_used_time=now), now=now)
        assert NOON + HOUR == await store.newest_time()
    other = engine.open(place)
    assert NOON + HOUR == await other.newest_time()
    assert NOON + HOUR == (await create_project(other)).create_time
    await other.close()


async def test_newest_day_of_a_permission_is_stored_for_a_batch_that_has_two(store: Store) -> None:
    """A batch may begin before midnight, and an earlier day never replaces a later one."""
    first, second = await keys_of(store, 1, 2)
    day = timedelta(days=1)
    uses = [
        PermissionUse(first.access_key, "a:read", NOON),
        PermissionUse(first.access_key, "a:read", NOON + day),
        PermissionUse(first.access_key, "b:read", NOON + day),
        PermissionUse(first.access_key, "b:read", NOON),
        PermissionUse(second.access_key, "a:read", NOON),
    ]
    for batch in (uses, uses[:1]):
        observed = Observations([], batch)

        def work(transaction: Transaction, observed: Observations = observed) -> None:
            transaction.count_usage(str(uuid4()), [row(first)], NOON, NOON + LONG, observed)

        await store.write(work)
    names = (first.access_key, second.access_key)
    found = await store.query(observations.observations_of, names, {}, permissions=True)
    expected = ({"a:read": NOON + day, "b:read": NOON + day}, {"a:read": NOON})
    assert expected == tuple(found[name].permission_days for name in names)
