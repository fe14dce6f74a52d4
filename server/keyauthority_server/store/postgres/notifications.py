"""Notifications of committed changes: they wake the followers of the log, and prove nothing.

Changes and freshness are always read from the database. While no notification can arrive, the log
is polled more often, so a dead connection, even an undetected one, costs milliseconds.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Any, Final

import psycopg
import structlog

from keyauthority_server.store.interface import StoreError
from keyauthority_server.store.postgres.rows import PostgresRows

GAP_SECONDS: Final = 0.02  # minimum between two callbacks: writers commit more often
RETRY_SECONDS: Final = 0.5  # before a failed connection is opened again
LISTEN_SECONDS: Final = 10.0  # for a connection and its first statement

_LISTEN: Final = "LISTEN keyauthority"
# A separate transaction after the change's: its failure undoes no change. It waits neither for the
# disk nor for a standby.
_NOTIFY: Final = "SET LOCAL synchronous_commit = off; NOTIFY keyauthority; COMMIT"

_log = structlog.get_logger(__name__)


class Notifications:
    """Listens on a connection of its own. Use it from one event loop."""

    def __init__(self, to: Mapping[str, Any], is_own: Callable[[int], bool]) -> None:
        """`is_own` tells the process of PostgreSQL whose notifications are ignored."""
        self._to = to
        self._is_own = is_own
        self._task: asyncio.Task[None] | None = None
        self._passing: asyncio.TimerHandle | None = None
        self._passed = float("-inf")
        self.connected = False
        """False while no notification can arrive; True guarantees nothing."""

    def begin(self, heard: Callable[[], None]) -> None:
        """Call `heard` from now on when there may be changes; idempotent."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._listen(heard))

    async def end(self) -> None:
        """Stop listening, and close the connection."""
        if self._passing is not None:
            self._passing.cancel()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _listen(self, heard: Callable[[], None]) -> None:
        failing = False
        while True:
            try:
                async with await self._connected() as connection:
                    self.connected, failing = True, False
                    self._pass_on(heard)  # for commits before LISTEN took effect
                    async with contextlib.aclosing(connection.notifies()) as words:
                        async for word in words:
                            if not self._is_own(word.pid):
                                self._pass_on(heard)
            except (psycopg.Error, OSError) as error:
                if not failing:
                    _log.warning("listening_failed", error=f"{type(error).__name__}: {error}")
                failing = True
            finally:
                self.connected = False
            await asyncio.sleep(RETRY_SECONDS)

    def _pass_on(self, heard: Callable[[], None]) -> None:
        """Call `heard`, now or after the gap; once for all notifications until then."""
        loop = asyncio.get_running_loop()

        def call() -> None:
            self._passing, self._passed = None, loop.time()
            heard()

        if self._passing is None:
            self._passing = loop.call_at(self._passed + GAP_SECONDS, call)

    async def _connected(self) -> psycopg.AsyncConnection[Any]:
        async with asyncio.timeout(LISTEN_SECONDS):
            connection = await psycopg.AsyncConnection.connect(**self._to, autocommit=True)
            try:
                found = await (await connection.execute("SELECT pg_backend_pid()")).fetchone()
                if found != (connection.info.backend_pid,):
                    raise OSError("a connection pooler does not forward NOTIFY; polling instead")
                await connection.execute(_LISTEN)
            except BaseException:
                await connection.close()
                raise
        return connection


def notify(rows: PostgresRows) -> None:
    """Notify all listeners of committed changes; on failure their polling finds them."""
    with contextlib.suppress(StoreError):
        rows.begin(_NOTIFY)
    rows.roll_back()
