"""Integrity: records are compared with the log, and the result is reused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from keyauthority_server.store.interface import StoreDamaged
from keyauthority_server.store.rows import Row
from keyauthority_server.store.sql import integrity
from keyauthority_server.store.sql.integrity import CheckedRecords
from keyauthority_server.store.sql.statements import EVIDENCE_WIDTH, GET_KEY, GET_PROJECT, KEY_ROW
from keyauthority_server.store.sqlite.connection import WRITE_BUSY_MS, SqliteRows, connect
from keyauthority_server.store.sqlite.store import migrate, open_store
from tests.store.factories import create, create_project, key, sign

PURPOSE = KEY_ROW.index("purpose")
LAST_USED = KEY_ROW.index("last_used_time")
LATER, ENTRY = -EVIDENCE_WIDTH, -EVIDENCE_WIDTH + 1


class Log(NamedTuple):
    """The rows of a key and a project, with the log's evidence."""

    key: Row
    project: Row


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[Log]:
    """A log of two changes."""
    path = tmp_path / "keys.db"
    migrate(path)
    store = open_store(path, sign)
    owner = await create_project(store)
    made = await create(store, key(owner.project_id, purpose="export"))
    await store.close()
    rows = SqliteRows(connect(path, WRITE_BUSY_MS))
    yield Log(rows.one(GET_KEY, (made.access_key,)), rows.one(GET_PROJECT, (owner.project_id,)))
    rows.close()


def altered(row: Row, place: int, value: object) -> Row:
    """Return the row with another value."""
    place %= len(row)
    return (*row[:place], value, *row[place + 1 :])


async def test_equal_row_is_decoded_once(log: Log) -> None:
    """An equal row returns the same record object."""
    checked = CheckedRecords()
    assert checked.key(log.key) is checked.key((*log.key,))
    assert checked.project(log.project) is checked.project((*log.project,))


async def test_row_with_another_last_use_is_decoded_again(log: Log) -> None:
    """The last use has no revision and no log entry."""
    checked = CheckedRecords()
    unused = checked.key(log.key)
    used = checked.key(altered(log.key, LAST_USED, 1))
    assert (None, True) == (unused.key.last_used_time, used.key.last_used_time is not None)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (PURPOSE, "another"),
        (LATER, 9),
        (ENTRY, None),
        (ENTRY, "["),
        (ENTRY, "[]"),
        (ENTRY, "{}"),
        (LAST_USED, 2**63 - 1),
        (LAST_USED, -(2**63)),
    ],
)
async def test_key_row_that_contradicts_the_log_is_damaged_despite_the_cache(
    log: Log, place: int, value: object
) -> None:
    """The correct row is accepted again afterwards."""
    checked = CheckedRecords()
    good = checked.key(log.key)
    with pytest.raises(StoreDamaged):
        checked.key(altered(log.key, place, value))
    assert checked.key(log.key) is good


@pytest.mark.parametrize(("place", "value"), [(2, "another"), (LATER, 9), (ENTRY, None)])
async def test_project_row_that_contradicts_the_log_is_damaged_despite_the_cache(
    log: Log, place: int, value: object
) -> None:
    """The correct row is accepted again afterwards."""
    checked = CheckedRecords()
    good = checked.project(log.project)
    with pytest.raises(StoreDamaged):
        checked.project(altered(log.project, place, value))
    assert checked.project(log.project) is good


async def test_without_the_later_entry_check_an_older_row_is_accepted(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: row and named entry agree, so only this check finds it."""
    monkeypatch.setattr(integrity, "check_newest", lambda _: None)
    assert CheckedRecords().key(altered(log.key, LATER, 9))
