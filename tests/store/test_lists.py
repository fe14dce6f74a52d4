"""Lists: order, pages, filters, scope, and the bound on rows read per call."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, cast

import pytest

from keyauthority.decision import state_of
from keyauthority.model import ChangeType, Key, KeyKind, KeyMode, KeyState, Project
from keyauthority.requests import KeyFilter
from keyauthority_server.store.interface import Store, StoreDamaged
from keyauthority_server.store.rows import Rows
from keyauthority_server.store.sql.queries import lists
from keyauthority_server.store.sql.queries.lists import (
    characters_of_lists,
    list_keys,
    list_projects,
)
from keyauthority_server.store.types import Scope
from tests.store.engines import Engine
from tests.store.factories import NOON, SECOND, create, create_project, key, operator, put

ALL = KeyFilter()


async def every(
    store: Store,
    project_id: str | None = None,
    scope: Scope = None,
    wanted: KeyFilter = ALL,
    now: datetime = NOON,
    limit: int = 3,
) -> list[Key]:
    """Return all pages, each checked against its bounds."""
    found: list[Key] = []
    place: int | None = 0
    while place is not None:
        page, following = await store.query(list_keys, project_id, scope, wanted, now, place, limit)
        assert len(page) <= limit
        assert following is None or following > place
        found += page
        place = following
    return found


async def shop(store: Store) -> tuple[list[str], list[Key]]:
    """Make two projects and keys of each in turn; return both in the order of creation."""
    projects = [(await create_project(store)).project_id for _ in range(2)]
    return projects, [
        await create(
            store,
            key(
                projects[i % 2],
                mode=list(KeyMode)[i % 3 == 0],
                kind=KeyKind.SECRET if i % 4 else KeyKind.PUBLISHABLE,
                labels={"team": str(i % 2), "n": str(i)},
                expire_time=NOON + i * SECOND if i % 5 else None,
            ),
        )
        for i in range(20)
    ]


def of(keys: Sequence[Key], *projects: str) -> list[Key]:
    """Return the keys of these projects."""
    return [one for one in keys if one.project_id in projects]


@pytest.mark.parametrize("limit", [1, 3, 20, 1000])
async def test_pages_hold_every_key_once_in_creation_order(store: Store, limit: int) -> None:
    """Each project key appears once, oldest first, for any page size; operator keys do not."""
    projects, keys = await shop(store)
    await create(store, operator())
    assert keys == await every(store, limit=limit)
    assert of(keys, projects[1]) == await every(store, projects[1], limit=limit)
    assert keys == await every(store, scope=frozenset(projects), limit=limit)


async def test_damaged_row_does_not_hold_later_reads_in_the_past(
    store: Store, engine: Engine, place: str
) -> None:
    """The list that met it was not read to its end, and its error is still at hand."""
    projects, _ = await shop(store)
    engine.rows(place, "UPDATE key SET last_used_time = 9223372036854775807")
    with pytest.raises(StoreDamaged) as damage:
        await every(store)
    projects.append((await create_project(store)).project_id)
    listed, _ = await store.query(list_projects, None, 0, 1000)
    assert projects == [one.project_id for one in listed]
    kept = [damage]
    del damage

    def list_without_the_error(rows: Rows) -> list[Project]:
        kept.clear()
        gc.collect()  # its iteration is finalized, and leaves this transaction alone
        return list_projects(rows, None, 0, 1000)[0]

    assert listed == await store.query(list_without_the_error)


async def test_length_of_lists_counts_each_list_of_the_named_keys(store: Store) -> None:
    """An absent key has none, and no key at all neither."""
    project = (await create_project(store)).project_id
    bare = await create(store, key(project))
    assert 0 == await store.query(characters_of_lists, [bare.access_key, "KAABSENT"])
    listed = await create(store, key(project, labels={"team": "ü"}, permissions=("orders:read",)))
    length = len('{"team":"ü"}') + len('["orders:read"]')
    assert length == await store.query(characters_of_lists, [bare.access_key, listed.access_key])
    assert 0 == await store.query(characters_of_lists, [])


async def test_last_page_has_no_cursor(store: Store) -> None:
    """A page that reaches the end of the list returns no cursor."""
    _, keys = await shop(store)
    assert (keys, None) == await store.query(list_keys, None, None, KeyFilter(), NOON, 0, len(keys))


async def test_scope_restricts_every_list(store: Store) -> None:
    """A confined caller lists only its own projects' keys, and never an operator key."""
    (mine, foreign), keys = await shop(store)
    root = await create(store, operator())
    scope = frozenset({mine})
    assert of(keys, mine) == await every(store, scope=scope)
    assert of(keys, mine) == await every(store, mine, scope)
    assert [] == await every(store, foreign, scope)
    assert [] == await every(store, scope=frozenset())
    operators = KeyFilter(kind=KeyKind.OPERATOR)
    assert [root] == await every(store, wanted=operators)
    assert [] == await every(store, scope=scope, wanted=operators)
    assert [] == await every(store, mine, wanted=operators)
    assert [mine] == [one.project_id for one in (await store.query(list_projects, scope, 0, 9))[0]]
    assert ([], None) == await store.query(list_projects, frozenset(), 0, 9)


@pytest.mark.parametrize(
    ("wanted", "matches"),
    [
        (KeyFilter(mode=KeyMode.TEST), lambda one: one.mode is KeyMode.TEST),
        (KeyFilter(kind=KeyKind.PUBLISHABLE), lambda one: one.kind is KeyKind.PUBLISHABLE),
        (KeyFilter(labels={"team": "1"}), lambda one: one.labels["team"] == "1"),
        (KeyFilter(labels={"team": "1", "n": "4"}), lambda one: False),
        (
            KeyFilter(expires_before=NOON + 9 * SECOND),
            lambda one: one.expire_time is not None and one.expire_time < NOON + 9 * SECOND,
        ),
        (
            KeyFilter(mode=KeyMode.TEST, labels={"team": "0"}),
            lambda one: one.mode is KeyMode.TEST and one.labels["team"] == "0",
        ),
    ],
)
async def test_filter_returns_exactly_the_matching_keys(
    store: Store, wanted: KeyFilter, matches: Any
) -> None:
    """All conditions of a filter must hold, in every kind of list."""
    projects, keys = await shop(store)
    expected = [one for one in keys if matches(one)]
    assert expected == await every(store, wanted=wanted)
    assert expected == await every(store, scope=frozenset(projects), wanted=wanted)
    assert of(expected, projects[0]) == await every(store, projects[0], wanted=wanted)


async def test_filter_by_last_use_excludes_unused_keys(
    store: Store, engine: Engine, place: str
) -> None:
    """A key that was never used is not among those used before a time."""
    _, keys = await shop(store)
    engine.rows(place, "UPDATE key SET last_used_time = created_revision WHERE revision < 10")
    used = [one.access_key for one in keys if one.revision < 10]
    before = KeyFilter(used_before=datetime.fromisoformat("1970-01-01T00:00:00.000008+00:00"))
    never = KeyFilter(never_used=True)
    assert used[:5] == [one.access_key for one in await every(store, wanted=before)]
    assert keys[len(used) :] == await every(store, wanted=never)


async def test_state_filter_matches_state_of(store: Store) -> None:
    """A key is listed under exactly the state that `decision.state_of` returns, at any time."""
    owner = (await create_project(store)).project_id
    times = (None, NOON, NOON + 2 * SECOND)
    keys = [
        await create(
            store,
            key(
                owner,
                expire_time=expire,
                supersede_time=supersede,
                revoke_time=revoke,
                disabled=off,
            ),
        )
        for expire in times
        for supersede in times
        for revoke in (None, NOON)
        for off in (False, True)
    ]
    for now in (NOON - SECOND, NOON, NOON + SECOND, NOON + 2 * SECOND):
        for state in KeyState:
            expected = [one for one in keys if state_of(one, now) is state]
            assert expected == await every(store, owner, wanted=KeyFilter(state=state), now=now)


@pytest.mark.parametrize("by_label", [True, False])
async def test_list_call_reads_a_bounded_number_of_rows(
    store: Store, monkeypatch: pytest.MonkeyPatch, by_label: bool
) -> None:
    """A call that finds nothing within its bound returns an empty page and a cursor."""
    monkeypatch.setattr(lists, "SCAN_ROWS", 6)
    monkeypatch.setattr(lists, "LABEL_ROWS", 6)
    (first, second), keys = await shop(store)
    last = keys[-1]
    wanted = (
        KeyFilter(labels={"n": "19"}) if by_label else KeyFilter(expires_before=NOON + 99 * SECOND)
    )
    if not by_label:
        for one in keys[:-1]:
            await put(store, ChangeType.KEY_UPDATED, replace(one, expire_time=None))
    for project_id, scope in ((None, None), (second, None), (None, frozenset({first, second}))):
        assert [last] == await every(store, project_id, scope, wanted)
        page, following = await store.query(list_keys, project_id, scope, wanted, NOON, 0, 9)
        assert ([], True) == ([*page], following is not None and following < last.revision)


async def test_list_continues_correctly_while_keys_are_created(store: Store) -> None:
    """Keys created or changed between two pages neither hide nor repeat another."""
    projects, keys = await shop(store)
    page, following = await store.query(list_keys, None, None, KeyFilter(), NOON, 0, 10)
    assert following is not None
    changed = await put(store, ChangeType.KEY_UPDATED, replace(keys[3], purpose="changed"))
    added = await create(store, key(projects[0]))
    rest, end = await store.query(list_keys, None, None, KeyFilter(), NOON, following, 100)
    assert [*keys, added] == [*page, *rest]
    assert end is None
    assert changed.keys[0] == (await every(store))[3]


async def test_projects_are_listed_in_creation_order(store: Store) -> None:
    """Projects are paged oldest first, also after one is changed."""
    projects = [await create_project(store) for _ in range(5)]
    renamed = await put(store, ChangeType.PROJECT_UPDATED, replace(projects[0], display_name="a"))
    assert renamed.project is not None
    page, following = await store.query(list_projects, None, 0, 3)
    assert following is not None
    rest, end = await store.query(list_projects, None, following, 3)
    assert [renamed.project, *projects[1:]] == [*page, *rest]
    assert end is None


async def test_pages_are_bounded_by_the_length_of_their_records(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page of 1,000 projects with long labels would have 40 MB; clients take 4."""
    monkeypatch.setattr(lists, "PAGE_CHARACTERS", 3_000)
    labels = {"note": "n" * 2_000}
    projects = [await create_project(store, labels=labels) for _ in range(3)]
    keys = [await create(store, key(projects[0].project_id, labels=labels)) for _ in range(3)]
    assert keys == await every(store, limit=100)
    pages, place = list[list[Project]](), cast("int | None", 0)
    while place is not None:
        page, place = await store.query(list_projects, None, place, 100)
        pages.append(page)
    assert [[one] for one in projects] == pages
