"""Reading the audit log: pages, filters, and denied mutations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from keyauthority.model import ChangeType, Key, Project
from keyauthority.requests import EventQuery
from keyauthority_server.audit import denials
from keyauthority_server.audit.denials import DenialLog, DeniedCall
from keyauthority_server.config.callers import SAN_MAX
from keyauthority_server.store.interface import Store
from keyauthority_server.store.sql.queries import denied_mutations, events
from keyauthority_server.store.sql.queries.denied_mutations import list_denials, record_denials
from keyauthority_server.store.sql.queries.events import list_events
from keyauthority_server.store.types import Actor, DeniedMutation, Scope, SignedEntry
from tests.store.engine_only import only
from tests.store.engines import Engine
from tests.store.factories import (
    NOON,
    SECOND,
    applying,
    create_project,
    key,
    mutation,
    operator,
    put,
    sign,
)

ANOTHER = "KAZZZZZZZZZZZZZZZZZZ"
PAGES_MAX = 100


async def pages(
    store: Store, scope: Scope = None, limit: int = 1000, **query: Any
) -> list[Sequence[SignedEntry]]:
    """Return all pages of a list."""
    found: list[Sequence[SignedEntry]] = []
    after: int | None = 0
    while after is not None:
        page, after = await store.query(list_events, scope, EventQuery(**query), after, limit)
        found.append(page)
        assert len(found) < PAGES_MAX, "the list has no end"
    return found


async def listed(store: Store, scope: Scope = None, limit: int = 1000, **query: Any) -> list[int]:
    """Return the revisions of a list."""
    return [
        one.entry.revision for page in await pages(store, scope, limit, **query) for one in page
    ]


async def two_projects(store: Store) -> tuple[Project, Project, Key, Key]:
    """Make changes 1 to 8: two projects, a key of each, one rotated and then updated, an operator.

    Each is a second after the one before; `ANOTHER` has made the rotation.
    """
    shop, other = [await create_project(store), await create_project(store)]
    old, successor, foreign = key(shop.project_id), key(shop.project_id), key(other.project_id)
    await put(store, ChangeType.KEY_CREATED, old, time=NOON + 2 * SECOND)
    await put(store, ChangeType.KEY_CREATED, foreign, time=NOON + 3 * SECOND)
    await put(store, ChangeType.KEY_CREATED, operator(), time=NOON + 4 * SECOND)
    rotation = mutation(ChangeType.KEY_ROTATED, old, successor, time=NOON + 5 * SECOND)
    await store.write(applying(replace(rotation, author=Actor(ANOTHER))))
    await put(store, ChangeType.KEY_UPDATED, successor, time=NOON + 6 * SECOND)
    await put(store, ChangeType.PROJECT_UPDATED, shop, time=NOON + 7 * SECOND)
    return shop, other, old, successor


@pytest.mark.parametrize("limit", [1, 2, 3, 1000])
async def test_event_pages_hold_exactly_the_filtered_entries_in_order(
    store: Store, limit: int
) -> None:
    """Filters combine with AND; each entry appears once, with any page size."""
    shop, other, old, successor = await two_projects(store)
    own = frozenset({shop.project_id})
    both = frozenset({shop.project_id, other.project_id})
    time = {"start_time": NOON + 3 * SECOND, "end_time": NOON + 6 * SECOND}
    for expected, scope, query in (
        ([1, 2, 3, 4, 5, 6, 7, 8], None, {}),
        ([1, 3, 6, 7, 8], None, {"project_id": shop.project_id}),
        ([1, 3, 6, 7, 8], own, {}),
        ([1, 2, 3, 4, 6, 7, 8], both, {}),
        ([], frozenset({"none"}), {}),
        ([3, 6], None, {"access_key": old.access_key}),
        ([3, 6], own, {"access_key": old.access_key}),
        ([], frozenset({other.project_id}), {"access_key": old.access_key}),
        ([], frozenset({other.project_id}), {"project_id": shop.project_id}),
        ([], own, {"access_key": ANOTHER}),
        ([6, 7], None, {"access_key": successor.access_key}),
        ([6], None, {"access_key": successor.access_key, "actor": ANOTHER}),
        ([6], None, {"actor": ANOTHER}),
        ([6], both, {"actor": ANOTHER}),
        ([], frozenset({other.project_id}), {"actor": ANOTHER}),
        ([6], None, {"project_id": shop.project_id, "actor": ANOTHER}),
        ([4, 5, 6], None, time),
        ([6], None, {"access_key": successor.access_key, **time}),
        ([7], None, {"access_key": successor.access_key, "start_time": NOON + 6 * SECOND}),
        ([6, 7, 8], None, {"start_time": NOON + 4 * SECOND + timedelta(microseconds=1)}),
        ([], None, {"start_time": NOON + 8 * SECOND}),
        ([], None, {"end_time": NOON - SECOND}),
        ([1, 2, 3, 4, 5, 6, 7, 8], None, {"end_time": NOON + 8 * SECOND}),
    ):
        assert (expected, query) == (await listed(store, scope, limit, **query), query)


async def test_events_carry_the_hash_chain(store: Store) -> None:
    """An event is the signed entry together with the hash of the previous one."""
    await two_projects(store)
    ((*_, last),) = await pages(store)
    ((found,),) = await pages(store, start_time=last.entry.time)
    assert last == found
    assert sign(found.entry) == found.mac


async def test_event_page_reads_a_bounded_number_of_rows(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If few entries match, the call returns early with a cursor to continue from."""
    monkeypatch.setattr(events, "SCAN_ROWS", 2)
    shop, other, *_ = await two_projects(store)
    both = frozenset({shop.project_id, other.project_id})
    for scope, project_id in ((None, shop.project_id), (both, ""), (None, "")):
        assert [6] == await listed(store, scope, actor=ANOTHER, project_id=project_id)
    assert 2 < len(await pages(store, actor=ANOTHER, project_id=shop.project_id))


async def test_event_page_is_cut_at_its_size_limit(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page fits into a client's message limit and holds at least one event."""
    monkeypatch.setattr(events, "PAGE_CHARACTERS", 1)
    await two_projects(store)
    assert [1] * 8 == [len(page) for page in await pages(store)][:8]
    assert [1, 2, 3, 4, 5, 6, 7, 8] == await listed(store)


@only("sqlite", because="other engines explain their plans in other words")
async def test_event_queries_use_an_index_for_every_filter(
    store: Store, engine: Engine, place: str
) -> None:
    """No query sorts the log or scans it from its start."""
    await two_projects(store)
    for source in (events._OF_KEY, events._BY_ACTOR, events._OF_PROJECT):
        for statement in (source.bound, source.page + " ORDER BY revision LIMIT 1"):
            plan = engine.rows(place, f"EXPLAIN QUERY PLAN {statement.replace('?', '1')}")
            assert ["SEARCH change USING COVERING INDEX"] == [row[3][:34] for row in plan]


def attempt(number: int = 0, **fields: str) -> DeniedCall:
    """Return a denial with a number of its own."""
    given = {
        "actor": ANOTHER,
        "peer": "127.0.0.1",
        "method": "UpdateKey",
        "reason": "key_not_found",
        "project_id": "",
        "access_key": str(number),
    }
    return DeniedCall(**(given | fields))


async def test_repeated_denials_are_stored_once_with_a_count(store: Store) -> None:
    """Equal denials of one flush become one row with the time of the last."""
    noted = DenialLog(store)
    for number in (1, 2, 1):
        noted.note(attempt(number), NOON + number * SECOND)
    await noted.flush()
    await noted.flush()
    first, second = await store.query(list_denials, 10)
    assert DeniedMutation(NOON + SECOND, 2, *attempt(1)) == first
    assert DeniedMutation(NOON + 2 * SECOND, 1, *attempt(2)) == second
    assert [second] == await store.query(list_denials, 1)


async def test_denials_are_bounded_in_number_and_length(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flush writes a bounded number of rows with bounded text, after any requests."""
    monkeypatch.setattr(denials, "RECORDS_MAX", 3)
    noted = DenialLog(store)
    for number in range(10):
        noted.note(attempt(number, project_id="x\n\0\u202e" * 1000), NOON)
    await noted.flush()
    found = await store.query(list_denials, 100)
    assert ["0", "1", "2"] == [one.access_key for one in found]
    assert {denials.TEXT_MAX} == {len(one.project_id) for one in found}
    assert all(one.project_id.isprintable() for one in found)


async def test_certificate_names_are_stored_untruncated(store: Store) -> None:
    """Two callers whose names differ only in the last character stay distinct."""
    noted = DenialLog(store)
    names = ["spiffe://example.org/".ljust(SAN_MAX - 1, "x") + last for last in "ab"]
    for name in names:
        noted.note(attempt(actor=name), NOON)
    await noted.flush()
    assert names == [one.actor for one in await store.query(list_denials, 10)]


async def test_only_the_newest_denials_are_kept(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table of denials cannot fill the disk."""
    monkeypatch.setattr(denied_mutations, "DENIALS_KEPT", 3)
    for first in (0, 2, 4):
        rows = [DeniedMutation(NOON, 1, *attempt(first + one)) for one in range(2)]
        await store.write(partial(_record, *rows))
    assert ["3", "4", "5"] == [one.access_key for one in await store.query(list_denials, 100)]


async def test_denials_make_no_change(store: Store) -> None:
    """Recording denials uses no revision and writes no log entry."""
    row = DeniedMutation(NOON, 1, *attempt())
    await store.write(partial(_record, row))
    assert 0 == (await store.log_head()).revision
    assert [] == await listed(store)


def _record(*given: Any) -> None:
    *rows, transaction = given
    transaction.bookkeep(record_denials, rows)
