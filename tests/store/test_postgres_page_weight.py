"""Reads of heavy records on PostgreSQL hold few of them at once, however many a page may have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import psycopg
import pytest

from keyauthority.requests import KeyFilter
from keyauthority_server.store.postgres import PostgresStore, open_store
from keyauthority_server.store.sql.queries.lists import PAGE_CHARACTERS, list_keys
from tests.store.factories import NOON, create, create_project, key, sign

HEAVY: Final = 200_000  # characters of a record; its evidence doubles it
KEYS: Final = 40
HELD_MAX: Final = 5 * PAGE_CHARACTERS


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The characters of each list of rows that the driver has handed over."""
    lengths: list[int] = []
    for cursor, name in ((psycopg.ServerCursor, "fetchmany"), (psycopg.Cursor, "fetchall")):
        method = getattr(cursor, name)

        def fetch(self: Any, *of: Any, method: Any = method) -> Sequence[Any]:
            rows: Sequence[Any] = method(self, *of)
            texts = (value for row in rows for value in row if isinstance(value, str))
            lengths.append(sum(map(len, texts)))
            return rows

        monkeypatch.setattr(cursor, name, fetch)
    return lengths


async def test_pages_of_heavy_records_hold_few_at_once(url: str, held: list[int]) -> None:
    """No fetch holds all records, whether a filter takes them or not; none is left out."""
    store: PostgresStore = open_store(url, sign)
    project_id = (await create_project(store)).project_id
    for _ in range(KEYS):
        await create(store, key(project_id, purpose="x" * HEAVY))
    held.clear()
    others = KeyFilter(labels={"team": "other"})
    assert ([], None) == await store.query(list_keys, project_id, None, others, NOON, 0, 1000)
    after: int | None = 0
    listed = 0
    while after is not None:
        keys, after = await store.query(list_keys, project_id, None, KeyFilter(), NOON, after, 1000)
        listed += len(keys)
    position = changes = 0
    while (page := await store.read_changes(position, 1000)).changes:
        changes += len(page.changes)
        position = page.changes[-1].revision
    await store.close()
    assert (KEYS, KEYS + 1) == (listed, changes)
    assert max(held) <= HELD_MAX, held
