"""A copy of a whole store into another, of whatever engine: closed source, unfinished target.

1. The source is closed for writing, bookkeeping too, before the first row is read. So it stays as
   it is, and a copy that was killed goes on behind the last row that it has written.
2. The target is closed from its first row on, and its log bears no hash until all rows are there:
   no server starts on it, and nobody takes it for a source.
3. Every row is compared, and the caller verifies the chain. Only then the target is opened.

The counters of limits come last. Draws that a server makes from the source after that are
forgotten, as those of the last moments before a loss of power are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from keyauthority_server.store.base import StoreRefused
from keyauthority_server.store.identifiers import log_id_from, revision_from
from keyauthority_server.store.pages import Evidence
from keyauthority_server.store.records import Row
from keyauthority_server.store.sql import (
    CHANGE_COLUMNS,
    LOG,
    PUT_KEY_COLUMNS,
    PUT_PROJECT_COLUMNS,
    REQUEST_COLUMNS,
    Rows,
)

T = TypeVar("T")

PAGE_ROWS: Final = 250  # read at once; the longest change has some 600 KB
COMMITTED_PAGES: Final = 20  # in one transaction of the target

_LOWEST: Final = -(2**63)


class Table(NamedTuple):
    """A table that is copied, and the order in which that is done."""

    name: str
    columns: Sequence[str]
    by: str
    """A unique column: rows that others refer to come before those."""
    before_all: Any
    """What is before every value of that column."""

    @property
    def read(self) -> str:
        """The statement for a page behind a place."""
        return (
            f"SELECT {', '.join(self.columns)} FROM {self.name}"  # noqa: S608 - texts of this module
            f" WHERE {self.by} > ? ORDER BY {self.by} LIMIT {PAGE_ROWS}"
        )

    @property
    def last(self) -> str:
        """The statement for the place of the last row."""
        return f"SELECT {self.by} FROM {self.name} ORDER BY {self.by} DESC LIMIT 1"  # noqa: S608 - as above

    @property
    def put(self) -> str:
        """The statement that writes a row."""
        places = ", ".join("?" * len(self.columns))
        return f"INSERT INTO {self.name} ({', '.join(self.columns)}) VALUES ({places})"  # noqa: S608 - as above


TABLES: Final = (
    Table("project", PUT_PROJECT_COLUMNS, "created_revision", _LOWEST),
    Table("key", (*PUT_KEY_COLUMNS, "last_used_time"), "created_revision", _LOWEST),
    Table("change", CHANGE_COLUMNS, "revision", _LOWEST),
    Table("key_check", ("name", "check_value"), "name", ""),
    Table("request", REQUEST_COLUMNS, "name", b""),
    Table(
        "usage",
        (
            *("id", "granularity", "bucket_time", "access_key", "verdict"),
            *("project_id", "count", "cost", "last_used_time"),
        ),
        "id",
        _LOWEST,
    ),
    Table("usage_batch", ("batch_id", "end_time"), "batch_id", ""),
    Table(
        "refused",
        (
            *("id", "time", "times", "actor", "peer"),
            *("method", "reason", "project_id", "access_key"),
        ),
        "id",
        _LOWEST,
    ),
)
COUNTERS: Final = Table("counter", ("name", "start", "used"), "name", "")
"""Which an engine may keep apart."""
NOT_COPIED: Final = frozenset({"log", "heartbeat"})
"""Tables whose rows are not: the one of the log is written by `begin` and `finish`, and what proves
the freshness of one database proves nothing of another."""
SERIALS: Final = ("usage", "refused")
"""Tables whose `id` the engine gives itself."""


class Place(Protocol):
    """One end of a copy: a database of the newest schema that no `Store` is needed for."""

    @property
    def rows(self) -> Rows:
        """Runs statements, each one a transaction, or within that of `writing`."""
        ...

    @property
    def counters(self) -> Rows:
        """The same for the counters."""
        ...

    @property
    def identity(self) -> str:
        """The same for two places that are one database, and for no others of its engine."""
        ...

    def writing(self) -> AbstractContextManager[None]:
        """Hold up all other writers, and commit at the end, durably; nothing if it fails."""
        ...

    def writing_counters(self) -> AbstractContextManager[None]:
        """The same for the counters."""
        ...

    def opened_as(self, log_id: str, revision: int) -> None:
        """Be told, in `writing`, that servers may run on this log from now on."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...


class Head(NamedTuple):
    """The row of the log."""

    log_id: str
    revision: int
    hash: bytes
    time: int | None
    closed: bool


class Copied(NamedTuple):
    """What the target holds."""

    head: Head
    rows: dict[str, int]
    """Of each table."""


def head_of(place: Place) -> Head:
    """Return the row of the log; raises StoreError."""
    row = place.rows.one(LOG)
    if row is None:
        raise StoreRefused("the database is damaged: it says nothing of its log")
    log_id, revision, hash_, time, closed = row
    return Head(log_id_from(log_id), revision_from(revision), bytes(hash_), time, bool(closed))


def begin(source: Place, target: Place) -> Head:
    """Close the source for writing, durably, and mark the target as an unfinished copy of it.

    Returns the head of the source, which moves no more. Raises StoreRefused, and changes nothing,
    unless the source is whole and the target is empty, or an unfinished copy of that source.
    """
    if source.identity == target.identity:
        raise StoreRefused("source and target are the same database")
    head = head_of(source)
    if not head.revision:
        raise StoreRefused("the source is empty")
    if not head.hash:
        raise StoreRefused("the source is a copy that was not finished")
    if not head.closed:
        _check_target(target, head)  # a source is not closed for a target that cannot be had
        with source.writing():
            head = head_of(source)._replace(closed=True)
            source.rows.run(_CLOSE)
    with target.writing():
        if _check_target(target, head):
            target.rows.run(_SET_LOG, (head.log_id, head.revision, b"", head.time, 1))
    return head


def copy_rows(source: Place, target: Place) -> None:
    """Copy every row that the target lacks; the counters begin anew."""
    for table in TABLES:
        _copy(table, source.rows, target.rows, target.writing)
    with target.writing_counters():
        target.counters.run(_NO_COUNTERS)
    _copy(COUNTERS, source.counters, target.counters, target.writing_counters)


def compare(source: Place, target: Place, head: Head) -> Copied:
    """Compare all rows but those of counters, then let the target's log bear its hash.

    The counters are only counted: a server that runs on the source draws from them. Raises
    StoreRefused, with the name of the table, if the target has not what the source has.
    """
    counts = {table.name: _compared(table, source.rows, target.rows) for table in TABLES}
    counts[COUNTERS.name] = sum(len(page) for page in _pages(COUNTERS, target.counters))
    with target.writing():
        target.rows.run(_SET_LOG, (head.log_id, head.revision, head.hash, head.time, 1))
    return Copied(head, counts)


def finish(target: Place, head: Head) -> None:
    """Open the target, whose chain was verified."""
    with target.writing():
        target.rows.run(_OPEN)
        target.opened_as(head.log_id, head.revision)


def abandon(source: Place, target: Place | None) -> Head:
    """Open the source of a copy again; what was copied stays closed.

    Raises StoreRefused if it is not closed, was not finished itself, or if the target is a finished
    copy, which may have changes that the source lacks, or none of this source.
    """
    head = head_of(source)
    if not head.closed or not head.hash:
        raise StoreRefused("the source is no store that a copy has closed")
    if target is not None:
        found = head_of(target)
        if found.log_id == head.log_id and not found.closed:
            raise StoreRefused("the copy was finished: run the servers on it")
        if found.log_id != head.log_id and found.revision:
            raise StoreRefused("the target is no copy of this source")
    with source.writing():
        source.rows.run(_OPEN)
        source.opened_as(head.log_id, head.revision)
    return head._replace(closed=False)


class CopiedLog(Evidence):
    """The log and the records of a place, as a verification of the chain reads them."""

    def __init__(self, place: Place) -> None:
        self._place = place

    async def page(self, read: Callable[[Rows], T]) -> T:
        """Run `read` over what does not change."""
        return read(self._place.rows)

    async def schema_differences(self) -> Sequence[str]:
        """Return nothing: a place whose schema was altered is not opened."""
        return ()


def _check_target(target: Place, head: Head) -> bool:
    """True if the target is empty, False for an unfinished copy; StoreRefused for all else."""
    found = head_of(target)
    if (found.log_id, found.revision) == (head.log_id, head.revision):
        if not found.closed:
            raise StoreRefused("the target is a finished copy: run the servers on it")
        if head.closed:
            return False
    if found.revision or any(target.rows.one(table.last) is not None for table in TABLES):
        raise StoreRefused("the target is not empty, and no unfinished copy of this source")
    return True


def _copy(
    table: Table, source: Rows, target: Rows, writing: Callable[[], AbstractContextManager[None]]
) -> None:
    last = target.one(table.last)
    pages = _pages(table, source, table.before_all if last is None else last[0])
    more = True
    while more:
        with writing():
            for _ in range(COMMITTED_PAGES):
                page = next(pages, None)
                if page is None:
                    more = False
                    break
                target.run_many(table.put, page)


def _compared(table: Table, source: Rows, target: Rows) -> int:
    """Return how many rows there are; StoreRefused if they are not the same."""
    count, pages = 0, _pages(table, target)
    for page in _pages(table, source):
        if page != next(pages, None):
            raise StoreRefused(f"the target differs from the source, in the table {table.name}")
        count += len(page)
    if next(pages, None) is not None:
        raise StoreRefused(f"the target has more than the source, in the table {table.name}")
    return count


def _pages(table: Table, rows: Rows, after: Any = None) -> Iterator[list[Row]]:
    """Yield the rows behind a place; each page is a state of its own."""
    place = table.before_all if after is None else after
    at = table.columns.index(table.by)
    while page := list(rows.each(table.read, (place,))):
        yield page
        place = page[-1][at]


_CLOSE: Final = "UPDATE log SET closed = 1 WHERE id = 1"
_OPEN: Final = "UPDATE log SET closed = 0 WHERE id = 1"
_SET_LOG: Final = (
    "UPDATE log SET log_id = ?, revision = ?, hash = ?, time = ?, closed = ? WHERE id = 1"
)
_NO_COUNTERS: Final = "DELETE FROM counter"
