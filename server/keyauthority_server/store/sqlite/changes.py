"""The newest changes of a SQLite log, and waiting for further ones."""

from __future__ import annotations

import asyncio
from typing import Final

from keyauthority.clock import monotonic
from keyauthority_server.store.sql.queries import changes
from keyauthority_server.store.sqlite.connection import SqliteRows
from keyauthority_server.store.types import ChangePage

POLL_SECONDS: Final = 0.004  # delay until another process's commit is seen; costs 1/200 of a core


class TailReader:
    """Reads the newest changes on a connection that never writes, in its event loop."""

    def __init__(self, rows: SqliteRows) -> None:
        self._rows = rows
        self._version: int | None = None
        self._waiting: asyncio.Future[None] | None = None

    def read(self, after: int, limit: int) -> ChangePage:
        """Return up to `limit` changes after a revision."""
        self._version = self._rows.version()  # before: a commit in between counts as new
        return changes.read_changes(self._rows, after, limit, monotonic())

    def notify(self) -> None:
        """End a wait: this process has committed."""
        _end(self._waiting)

    async def wait_for_changes(self, within: float) -> None:
        """Wait for a commit of any process after the last `read`."""
        loop = asyncio.get_running_loop()
        end = loop.time() + within
        while self._rows.version() == self._version:
            left = end - loop.time()
            if left <= 0:
                return
            self._waiting = loop.create_future()
            timer = loop.call_later(min(left, POLL_SECONDS), _end, self._waiting)
            try:
                await self._waiting
            finally:
                timer.cancel()


def _end(waiting: asyncio.Future[None] | None) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(None)
