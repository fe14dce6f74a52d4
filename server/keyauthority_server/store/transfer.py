"""Copies a whole store into another, of either engine, and hands the authority over.

1. The source is closed for writing, bookkeeping included, before the first row is read. So it does
   not change, and a killed copy continues after the last row that it has written. Closing records
   the id of the target: only this target can be continued or abandoned.
2. The target is closed from its first row on, and its log has no hash until all rows are copied: no
   server starts on it, and it cannot be the source of a copy.
3. Every row is compared, and the caller verifies the chain.
4. The counters of limits come last. The source closes them first, so no spend is lost: a server
   that still runs on it answers UNAVAILABLE for keys with limits.
5. The source permanently records the handover, and then the target is opened. That record decides:
   before it the copy can be abandoned, after it the target alone is the authority.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Concatenate, Final, NamedTuple, ParamSpec, Protocol, TypeVar

from keyauthority_server.store.counters import COUNTERS_CLOSED
from keyauthority_server.store.interface import StoreUnusable
from keyauthority_server.store.rows import Row, Rows
from keyauthority_server.store.sql.log_head import checked_head
from keyauthority_server.store.sql.tables import COUNTERS, TABLES, Table
from keyauthority_server.store.types import LogHead

T = TypeVar("T")
P = ParamSpec("P")

COMMITTED_PAGES: Final = 20  # in one transaction of the target


class Endpoint(Protocol):
    """An endpoint of a copy: a database of the newest schema, used without a `Store`."""

    @property
    def rows(self) -> Rows:
        """Runs statements, each in its own transaction, or in that of `writing`."""
        ...

    @property
    def counters(self) -> Rows:
        """Runs statements on the counters, in the same way."""
        ...

    @property
    def identity(self) -> str:
        """Equal for two endpoints exactly if they are the same database."""
        ...

    def writing(self) -> AbstractContextManager[None]:
        """Exclude all other writers; commit durably at the end, roll back on an exception."""
        ...

    def writing_counters(self) -> AbstractContextManager[None]:
        """Exclude all spends, in the same way."""
        ...

    def opened_as(self, head: LogHead) -> None:
        """Prepare, inside `writing`, for servers to run on this log."""
        ...

    def close(self) -> None:
        """Release all resources."""
        ...


class Handover(NamedTuple):
    """The target of a finished or unfinished copy of this database."""

    database_id: str
    """Identifies this database, independently of the log it holds."""
    target_id: str | None
    """The `database_id` of the target; None without a copy."""
    target: str | None
    """The target's URL, without a password."""
    completed: bool
    """True once the target is the authority."""


def head_of(endpoint: Endpoint) -> LogHead:
    """Return the counter row of the log; raises StoreError."""
    return checked_head(endpoint.rows)


def handover_of(endpoint: Endpoint) -> Handover:
    """Return the handover row; raises StoreError."""
    row = endpoint.rows.one(_HANDOVER)
    if row is None:
        raise StoreUnusable("the database is damaged: it has no row in the table handover")
    database_id, target_id, target, completed = row
    return Handover(database_id, target_id, target, bool(completed))


def close_source(source: Endpoint, target: Endpoint, target_name: str) -> LogHead:
    """Close the source for writing, durably, and mark the target as an unfinished copy of it.

    Returns the final head of the source. Raises StoreUnusable, and changes nothing, unless the
    source is complete and the target is empty, or is the target that closed this source.
    """
    if source.identity == target.identity:
        raise StoreUnusable("source and target are the same database")
    head = head_of(source)
    if not head.revision:
        raise StoreUnusable("the source is empty")
    if not head.hash:
        raise StoreUnusable("the source is a copy that was not finished")
    target_id = handover_of(target).database_id
    if not head.closed:
        _check_target(target, head)  # do not close the source for an unusable target
    with source.writing():
        head = head_of(source)
        if head.closed:
            _check_named(handover_of(source), target_id)
        else:
            source.rows.run(_CLOSE)
            source.rows.run(_SET_TARGET, (target_id, target_name))
            head = head._replace(closed=True)
    with target.writing():
        if _check_target(target, head):
            _set_head(target, head._replace(hash=b""))
    with target.writing_counters():
        if not head_of(target).hash:  # counters are copied only once the log has its hash
            target.counters.run(_SET_COUNTERS_CLOSED, (1,))
    return head


def copy_rows(source: Endpoint, target: Endpoint, head: LogHead) -> None:
    """Copy every row that the target lacks, except counters."""
    for table in TABLES:
        _copy(table, source, target, head)


def compare(source: Endpoint, target: Endpoint, head: LogHead) -> dict[str, int]:
    """Compare all rows except counters, then set the hash of the target's log.

    Returns the number of rows of each table. Raises StoreUnusable, naming the table, if the target
    differs from the source.
    """
    counts = {table.name: _compared(table, source.rows, target.rows) for table in TABLES}
    with target.writing():
        _check_unfinished(target, head)
        _set_head(target, head)
    return counts


def copy_counters(source: Endpoint, target: Endpoint, head: LogHead) -> int:
    """Close the counters of the source, then copy them once; return their number.

    Raises StoreUnusable if the copy was abandoned meanwhile.
    """
    with source.writing_counters():
        _check_named(handover_of(source), handover_of(target).database_id)
        if not head_of(source).closed:
            raise StoreUnusable(_ABANDONED)
        source.counters.run(_SET_COUNTERS_CLOSED, (1,))
    with target.writing_counters():
        if target.counters.one(COUNTERS_CLOSED) == (1,):  # else an earlier run has copied them
            _check_unfinished(target, head)
            target.counters.run(_NO_COUNTERS)
            for page in _pages(COUNTERS, source.counters):
                target.counters.run_many(COUNTERS.put, page)
            target.counters.run(_SET_COUNTERS_CLOSED, (0,))
    return sum(len(page) for page in _pages(COUNTERS, source.counters))


def finish(source: Endpoint, target: Endpoint, head: LogHead) -> None:
    """Hand the authority over: mark the source permanently, then open the target.

    Call it after `compare` and a verification of the target's chain. Raises StoreUnusable if the
    copy was abandoned meanwhile. After a kill between the two steps, the same copy can continue.
    """
    with source.writing():
        handover = handover_of(source)
        if not head_of(source).closed or handover.target_id != handover_of(target).database_id:
            raise StoreUnusable(_ABANDONED)
        source.rows.run(_COMPLETE)
    with target.writing():
        target.rows.run(_OPEN)
        target.opened_as(head)


def reopen_source(source: Endpoint, target: Endpoint | None) -> LogHead:
    """Reopen the source of a copy; the unfinished target stays closed.

    The source alone decides, so the target may be missing. Raises StoreUnusable if the source is
    not closed, is an unfinished copy itself, was handed over, or was closed for another target.
    """
    with source.writing():
        head, handover = head_of(source), handover_of(source)
        if not head.hash or not (head.closed or source.counters.one(COUNTERS_CLOSED) == (1,)):
            raise StoreUnusable("the source was not closed by a copy: nothing to abandon")
        if target is not None and head.closed:
            _check_abandoned(target, head, handover)
        if handover.completed:
            raise StoreUnusable(f"the copy was finished: run the servers on {handover.target}")
        source.rows.run(_OPEN)
        source.rows.run(_SET_TARGET, (None, None))
        source.opened_as(head)
    with source.writing_counters():
        source.counters.run(_SET_COUNTERS_CLOSED, (0,))
    return head._replace(closed=False)


class CopiedLog:
    """The log and the records of an endpoint, for a verification of the chain."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    async def query(
        self, read: Callable[Concatenate[Rows, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `read` directly: the closed endpoint does not change."""
        return read(self._endpoint.rows, *args, **kwargs)

    async def schema_differences(self) -> Sequence[str]:
        """Return nothing: an endpoint with an altered schema is never opened."""
        return ()


def _check_target(target: Endpoint, head: LogHead) -> bool:
    """True if the target is empty, False for an unfinished copy; otherwise StoreUnusable."""
    found = head_of(target)
    if (found.log_id, found.revision) == (head.log_id, head.revision):
        if not found.closed:
            raise StoreUnusable("the target is a finished copy: run the servers on it")
        if head.closed:
            return False
    if found.revision or any(target.rows.one(table.last) is not None for table in TABLES):
        raise StoreUnusable("the target is neither empty nor an unfinished copy of this source")
    return True


def _check_named(handover: Handover, target_id: str) -> None:
    """Raise StoreUnusable unless a closed source was closed for this target."""
    if handover.target_id == target_id:
        return
    if handover.completed:
        raise StoreUnusable(
            f"the source was handed over to {handover.target or 'another store'} for good: "
            f"run the servers on that"
        )
    raise StoreUnusable(
        f"the source is closed for a copy to {handover.target}: continue that copy, or abandon it"
    )


def _check_abandoned(target: Endpoint, head: LogHead, handover: Handover) -> None:
    """Raise StoreUnusable unless the source was closed for this target."""
    if handover_of(target).database_id != handover.target_id:
        raise StoreUnusable(
            f"the target is no copy of this source, which is closed for {handover.target}"
        )
    if head_of(target).log_id == head.log_id and not head_of(target).closed:
        raise StoreUnusable("the copy was finished: run the servers on it")


def _check_unfinished(target: Endpoint, head: LogHead) -> None:
    """Raise StoreUnusable unless the target is still closed: another run may have finished it."""
    found = head_of(target)
    if not found.closed or (found.log_id, found.revision) != (head.log_id, head.revision):
        raise StoreUnusable("the target was finished meanwhile, by another run of this copy")


def _set_head(target: Endpoint, head: LogHead) -> None:
    log_id, revision, hash_, time, closed, mac = head
    target.rows.run(_SET_LOG, (log_id, revision, hash_, time, int(closed), *(mac or (None, None))))


def _copy(table: Table, source: Endpoint, target: Endpoint, head: LogHead) -> None:
    last = target.rows.one(table.last)
    pages = _pages(table, source.rows, table.before_all if last is None else last[0])
    is_done = False
    while not is_done:
        with target.writing():
            _check_unfinished(target, head)
            for _ in range(COMMITTED_PAGES):
                page = next(pages, None)
                if page is None:
                    is_done = True
                    break
                target.rows.run_many(table.put, page)


def _compared(table: Table, source: Rows, target: Rows) -> int:
    """Return the number of rows; StoreUnusable if they differ."""
    count, pages = 0, _pages(table, target)
    for page in _pages(table, source):
        if page != next(pages, None):
            raise StoreUnusable(f"the target differs from the source in the table {table.name}")
        count += len(page)
    if next(pages, None) is not None:
        raise StoreUnusable(f"the target has more rows than the source in the table {table.name}")
    return count


def _pages(table: Table, rows: Rows, after: Any = None) -> Iterator[list[Row]]:
    """Yield the rows after a cursor; each page is a state of its own."""
    cursor = table.before_all if after is None else after
    index = table.columns.index(table.by)
    while page := list(rows.each(table.read, (cursor,))):
        yield page
        cursor = page[-1][index]


_ABANDONED: Final = "the copy was abandoned meanwhile"
_HANDOVER: Final = "SELECT database_id, target_id, target, completed FROM handover WHERE id = 1"
_SET_TARGET: Final = "UPDATE handover SET target_id = ?, target = ? WHERE id = 1"
_COMPLETE: Final = "UPDATE handover SET completed = 1 WHERE id = 1"
_SET_COUNTERS_CLOSED: Final = "UPDATE counter_state SET closed = ? WHERE id = 1"
_CLOSE: Final = "UPDATE log SET closed = 1 WHERE id = 1"
_OPEN: Final = "UPDATE log SET closed = 0 WHERE id = 1"
_SET_LOG: Final = (
    "UPDATE log SET log_id = ?, revision = ?, hash = ?, time = ?, closed = ?, time_hash = ?,"
    " time_key_version = ? WHERE id = 1"
)
_NO_COUNTERS: Final = "DELETE FROM counter"
