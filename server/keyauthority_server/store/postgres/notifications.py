"""Word that somebody has committed changes: it wakes who follows the log, and proves nothing.

Changes and freshness are read, and so found without it as well: the log is looked at more often
while no word can come. So a connection that died, be it in silence, costs milliseconds.
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

GAP_SECONDS: Final = 0.02  # at least, between two words passed on: writers commit more often
RETRY_SECONDS: Final = 0.5  # until a connection that failed is made anew
LISTEN_SECONDS: Final = 10.0  # for a connection and its first statement

_LISTEN: Final = "LISTEN keyauthority"
# A transaction of its own, behind the one that it tells of: nothing that is wrong with it undoes a
# change. Nobody waits for it, the standby neither.
_TELL: Final = "SET LOCAL synchronous_commit = off; NOTIFY keyauthority; COMMIT"

_log = structlog.get_logger(__name__)


class Notifications:
    """Listens on a connection of its own. Use it from one event loop."""

    def __init__(self, to: Mapping[str, Any]) -> None:
        self._to = to
        self._task: asyncio.Task[None] | None = None
        self._passing: asyncio.TimerHandle | None = None
        self._passed = float("-inf")
        self.connected = False
        """False while no word can come; True promises nothing."""

    def begin(self, heard: Callable[[], None]) -> None:
        """Call `heard` from now on when there may be changes; once begun it goes on."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._listen(heard))

    async def end(self) -> None:
        """Listen no more, and let go of the connection."""
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
                    self._pass_on(heard)  # what was committed before it could hear
                    async with contextlib.aclosing(connection.notifies()) as words:
                        async for _ in words:
                            self._pass_on(heard)
            except (psycopg.Error, OSError) as error:
                if not failing:
                    _log.warning("listening_failed", error=f"{type(error).__name__}: {error}")
                failing = True
            finally:
                self.connected = False
            await asyncio.sleep(RETRY_SECONDS)

    def _pass_on(self, heard: Callable[[], None]) -> None:
        """Call `heard`, now or when the gap is over; once for all that came by then."""
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
                if found != (connection.info.backend_pid,):  # a pooler, which passes no word on
                    raise OSError("a pooler passes no NOTIFY on")
                await connection.execute(_LISTEN)
            except BaseException:
                await connection.close()
                raise
        return connection


def tell(rows: PostgresRows) -> None:
    """Tell all who listen that changes were committed; if that fails they find out later."""
    with contextlib.suppress(StoreError):
        rows.begin(_TELL)
    rows.roll_back()
