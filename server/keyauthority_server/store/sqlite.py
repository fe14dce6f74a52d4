"""The SQLite engine: `base.Store` in one file, for one machine and any number of its processes.

Single records are read in the event loop, some 10 µs each, pages in a thread of their own, and
writes go through the writer thread. Every read is of committed state, whichever process wrote it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import structlog

from keyauthority.model import Key, KeyFilter, LogId, Project, UsageRow
from keyauthority.requests import UsageQuery
from keyauthority_server.store import listing, usage
from keyauthority_server.store.base import StoreRefused, StoreUnavailable, Transaction
from keyauthority_server.store.locks import WriteLock
from keyauthority_server.store.records import (
    PROJECT_COLUMNS,
    Row,
    project_from,
    record_of,
    time_from,
)
from keyauthority_server.store.sights import Decoder
from keyauthority_server.store.sql import GET_PROJECT, KEY_CHECKS, LOG, LOOK_MANY
from keyauthority_server.store.sqlite_connection import (
    READ_BUSY_MS,
    WRITE_BUSY_MS,
    FileIdentity,
    SqliteRows,
    affected_library,
    connect,
    sqlite3,
)
from keyauthority_server.store.sqlite_counters import counters_path, open_counters
from keyauthority_server.store.sqlite_schema import COUNTERS, RECORDS, check_schema
from keyauthority_server.store.sqlite_schema import migrate as migrate_file
from keyauthority_server.store.sqlite_units import Unit, Units
from keyauthority_server.store.sqlite_writer import Writer
from keyauthority_server.store.transaction import SqlTransaction, in_scope
from keyauthority_server.store.values import Scope, Sealer, Sight, Sights

__all__ = ["SqliteStore", "affected_library", "migrate", "open_counters", "open_store"]

T = TypeVar("T")

WRITE_TIMEOUT: Final = 5.0  # seconds: more than a queue of writers takes, less than callers wait
CLOSE_TIMEOUT: Final = 10.0  # seconds: what was handed in is answered by then, one way or the other

_LOST: Final = "the database was exchanged"

_ASKED: Final = "WITH asked (place, value) AS (SELECT key, value FROM json_each(?)) "
_LOOK_MANY: Final = _ASKED + LOOK_MANY

_log = structlog.get_logger(__name__)


def migrate(path: Path) -> None:
    """Bring the database at `path`, and its counters beside it, to the newest schema.

    Makes what is not there; see `sqlite_schema.migrate`.
    """
    migrate_file(path, RECORDS)
    migrate_file(counters_path(path), COUNTERS)


def open_store(path: Path, seal: Sealer, *, checkpoints: bool = True) -> SqliteStore:
    """Open the database at `path`, which `migrate` has made.

    Exactly one of the processes that have it open should run `checkpoints`, else its write-ahead
    log grows. Raises StoreRefused, with one line that says why, and StoreUnavailable.
    """
    if not path.is_file():
        raise StoreRefused(f"there is no database at {path}")
    with ExitStack() as opened:
        try:
            reader = connect(path, READ_BUSY_MS)
            opened.callback(reader.close)
            check_schema(reader, path, RECORDS)
            rows = SqliteRows(reader)
            pages = SqliteRows(connect(path, READ_BUSY_MS))
            opened.callback(pages.close)
            identity = FileIdentity(path)
            lock = WriteLock(path)
            opened.callback(lock.close)
            connection = connect(path, WRITE_BUSY_MS)
            opened.callback(connection.close)
            written = SqliteRows(connection)
            job = Units(written, seal)
            writer = Writer(
                written, lock, job, identity.check, name="store-writer", checkpoints=checkpoints
            )
        except (sqlite3.Error, OSError) as error:
            raise StoreRefused(f"{path} cannot be opened: {error}") from error
        store = SqliteStore(rows, pages, writer, identity)
        opened.pop_all()
        return store


class SqliteStore:
    """`base.Store` on SQLite. Make it with `open_store`; use it from one event loop."""

    def __init__(
        self, rows: SqliteRows, pages: SqliteRows, writer: Writer[Unit], identity: FileIdentity
    ) -> None:
        self._rows = rows
        self._pages = pages
        self._writer = writer
        self._identity = identity
        self._decoder = Decoder()
        self._pager = ThreadPoolExecutor(1, thread_name_prefix="store-reader")
        self._log_id = LogId(self._counter()[0])

    @property
    def log_id(self) -> LogId:
        """The log that this store's revisions count in."""
        return self._log_id

    async def look(self, access_key: str | None, operator: str | None) -> Sight:
        """Return a key with its project, and an operator's key, as they are now."""
        if self._identity.lost:
            raise StoreUnavailable(_LOST)
        return self._decoder.look(self._rows.one, access_key, operator)

    async def look_many(self, access_keys: Sequence[str], operator: str | None) -> Sights:
        """Return many keys, each with its project, and an operator's key, as they are now."""
        if self._identity.lost:
            raise StoreUnavailable(_LOST)
        asked = json.dumps([*access_keys, operator])
        return self._decoder.sights(list(self._rows.each(_LOOK_MANY, (asked,))))

    async def get_key(self, access_key: str, scope: Scope) -> Key | None:
        """Return the key, or None if it is absent or out of scope."""
        held = (await self.look(access_key, None)).held
        return held.key if held is not None and in_scope(held.key, scope) else None

    async def get_project(self, project_id: str, scope: Scope) -> Project | None:
        """Return the project, or None if it is absent or out of scope."""
        if scope is not None and project_id not in scope:
            return None
        if self._identity.lost:
            raise StoreUnavailable(_LOST)
        row = self._rows.one(GET_PROJECT, (project_id,))
        return None if row is None else project_from(record_of(PROJECT_COLUMNS, row))

    async def list_keys(
        self,
        project_id: str | None,
        scope: Scope,
        key_filter: KeyFilter,
        now: datetime,
        after: int,
        limit: int,
    ) -> tuple[Sequence[Key], int | None]:
        """Return up to `limit` keys in the order of their creation, and where to go on."""
        where = listing.search(project_id, scope, key_filter, now)
        if where is None:
            return [], None
        asked = listing.Asked(_ASKED, json.dumps(where.projects))
        return await self._page(partial(listing.list_keys, self._pages, asked, where, after, limit))

    async def list_projects(
        self, scope: Scope, after: int, limit: int
    ) -> tuple[Sequence[Project], int | None]:
        """Return up to `limit` projects in the order of their creation, and where to go on."""
        asked = listing.Asked(_ASKED, json.dumps(sorted(scope or ())))
        return await self._page(
            partial(listing.list_projects, self._pages, asked, scope, after, limit)
        )

    async def list_usage(
        self, scope: Scope, query: UsageQuery, after: int, limit: int
    ) -> tuple[Sequence[UsageRow], int | None]:
        """Return up to `limit` rows in order of time, access key and verdict; see `base`."""
        return await self._page(partial(usage.list_usage, self._pages, scope, query, after, limit))

    async def write(self, work: Callable[[Transaction], T]) -> T:
        """Run `work` in a transaction, commit, and return what it returned; see `base`."""
        return await self._write(work)

    async def newest_time(self) -> datetime | None:
        """Return the time of the newest change, None for an empty log."""
        time = self._counter()[3]
        return None if time is None else time_from(time)

    async def key_checks(self) -> Mapping[str, bytes]:
        """Return the check values by which files of secret keys are recognised, by name."""
        return dict(self._rows.each(KEY_CHECKS))

    async def set_key_checks(self, checks: Mapping[str, bytes]) -> None:
        """Record check values for names that have none yet."""
        await self._write(lambda transaction: transaction.set_key_checks(checks))

    async def close(self) -> None:
        """Finish the writes that were handed in, then let go of everything."""
        self._writer.close()
        await asyncio.wait((asyncio.wrap_future(self._writer.stopped),), timeout=CLOSE_TIMEOUT)
        self._pager.shutdown()
        self._pages.close()
        self._rows.close()

    async def _write(self, work: Callable[[SqlTransaction], T]) -> T:
        unit = Unit(work)
        self._writer.submit(unit)
        outcome: asyncio.Future[T] = asyncio.wrap_future(unit.outcome)
        try:
            done, _ = await asyncio.wait((outcome,), timeout=WRITE_TIMEOUT)
        except asyncio.CancelledError:
            outcome.add_done_callback(partial(_log_unanswered, unit))
            raise
        if done:
            return outcome.result()
        if unit.outcome.cancel():
            raise StoreUnavailable("the write did not come to its turn, and never will")
        outcome.add_done_callback(partial(_log_unanswered, unit))
        raise StoreUnavailable("the write was not committed in time; it may be yet")

    async def _page(self, read: Callable[[], T]) -> T:
        if self._identity.lost:
            raise StoreUnavailable(_LOST)
        return await asyncio.get_running_loop().run_in_executor(self._pager, self._snapshot, read)

    def _snapshot(self, read: Callable[[], T]) -> T:
        self._pages.run("BEGIN")
        try:
            return read()
        finally:
            if self._pages.in_transaction:
                self._pages.run("COMMIT")

    def _counter(self) -> Row:
        row: Row | None = self._rows.one(LOG)
        if row is None:
            raise StoreRefused("the counter row is missing")
        return row


def _log_unanswered(unit: Unit, outcome: asyncio.Future[Any]) -> None:
    """Say what became of a write whose caller has gone, or was told that nobody knows."""
    if outcome.cancelled():
        return
    error = outcome.exception()
    if error is None:
        _log.warning("write_unanswered", outcome="committed", revisions=unit.revisions)
    else:
        _log.warning("write_unanswered", outcome="failed", error=type(error).__name__)
