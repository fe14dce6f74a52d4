"""Records that were held against the log once: when that is done anew, and what it finds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from keyauthority.model import Revision
from keyauthority_server.store.base import StoreUnavailable
from keyauthority_server.store.recorded import Checked
from keyauthority_server.store.records import Row
from keyauthority_server.store.sql import GET_KEY, GET_PROJECT, GET_RECORDED, HELD_ROW
from keyauthority_server.store.sqlite import migrate, open_store
from keyauthority_server.store.sqlite_connection import WRITE_BUSY_MS, SqliteRows, connect
from tests.store.making import create, create_project, key, seal

PURPOSE = HELD_ROW.index("purpose")
LAST_USED = HELD_ROW.index("last_used_time")


class Log:
    """A key and a project in a file, their rows, and the entries that were asked for."""

    def __init__(self, rows: SqliteRows, access_key: str, project_id: str) -> None:
        self._rows = rows
        self.key: Row = rows.one(GET_KEY, (access_key,))
        self.project: Row = rows.one(GET_PROJECT, (project_id,))
        self.asked: list[Revision] = []

    def read(self, revision: Revision) -> Row | None:
        """Return an entry."""
        self.asked.append(revision)
        row: Row | None = self._rows.one(GET_RECORDED, (revision,))
        return row


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[Log]:
    """A log of two changes."""
    path = tmp_path / "keys.db"
    migrate(path)
    store = open_store(path, seal)
    owner = await create_project(store)
    made = await create(store, key(owner.project_id, purpose="export"))
    await store.close()
    rows = SqliteRows(connect(path, WRITE_BUSY_MS))
    yield Log(rows, made.access_key, owner.project_id)
    rows.close()


def altered(row: Row, place: int, value: object) -> Row:
    """Return the row with another value."""
    return (*row[:place], value, *row[place + 1 :])


async def test_row_that_is_the_same_is_decoded_once(log: Log) -> None:
    """The log is asked once for the key and once for the project."""
    checked = Checked()
    assert checked.key(log.key, log.read) is checked.key(tuple(log.key), log.read)
    assert checked.project(log.project, log.read) is checked.project(tuple(log.project), log.read)
    assert [2, 1] == log.asked


async def test_row_that_is_another_is_decoded_anew(log: Log) -> None:
    """Be it for what makes no revision: the last use, which the log does not know."""
    checked = Checked()
    unused = checked.key(log.key, log.read)
    used = checked.key(altered(log.key, LAST_USED, 1), log.read)
    assert (None, True) == (unused.key.last_used_time, used.key.last_used_time is not None)
    assert [2, 2] == log.asked


async def test_row_that_is_damaged_is_found_though_its_record_is_kept(log: Log) -> None:
    """Of the same revision, but not what the log says; what was good is found again after it."""
    checked = Checked()
    good = checked.key(log.key, log.read)
    checked.project(log.project, log.read)
    with pytest.raises(StoreUnavailable, match="damaged"):
        checked.key(altered(log.key, PURPOSE, "another"), log.read)
    with pytest.raises(StoreUnavailable, match="damaged"):
        checked.project(altered(log.project, 2, "another"), log.read)
    assert checked.key(log.key, log.read) is good
