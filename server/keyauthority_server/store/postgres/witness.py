"""What a process knows of its log, to tell a database that is another, or that has lost changes.

After a failover, or with an old primary that still runs, a connection may lead to a database that
lacks what was acknowledged. Such a connection is not used: another host may have it all.
"""

from __future__ import annotations

import threading
from typing import Final

from keyauthority.model import LogId, Revision
from keyauthority_server.store.base import StoreRefused
from keyauthority_server.store.postgres.connection import ConnectionLost
from keyauthority_server.store.postgres.rows import PostgresRows
from keyauthority_server.store.postgres.schema import check_schema
from keyauthority_server.store.sql import LOG


class Witness:
    """The log's id and the newest revision that was seen. Used by all threads of a process."""

    def __init__(self) -> None:
        self.log_id: LogId | None = None
        self._newest = Revision(0)
        self._lock = threading.Lock()
        self.acknowledged = Revision(0)
        """The newest revision that this process has committed itself."""

    @property
    def newest(self) -> Revision:
        """What every answer from now on must have: no smaller revision is the head."""
        return self._newest

    def saw(self, revision: Revision) -> None:
        """Remember a head that was read, or committed."""
        with self._lock:
            self._newest = max(self._newest, revision)

    def committed(self, revision: Revision) -> None:
        """Remember a head that this process has committed, before anybody is told of it."""
        self.saw(revision)
        self.acknowledged = max(self.acknowledged, revision)

    def admit(self, rows: PostgresRows) -> None:
        """Raise unless a new connection leads to the log, with all that was seen of it.

        ConnectionLost if another host may; StoreRefused if it must not be opened.
        """
        check_schema(rows)
        newest = self._newest
        row = rows.one(LOG)
        if row is None:
            raise StoreRefused("the database is damaged: it says nothing of its log")
        if self.log_id is None:
            self.log_id = LogId(row[0])
        elif self.log_id != row[0]:
            raise ConnectionLost("the database has another log than the one that was opened")
        self.check(Revision(row[1]), newest)

    def check(self, head: Revision, newest: Revision) -> None:
        """Raise ConnectionLost if a head is before what was the newest when it was asked for."""
        if head < newest:
            raise ConnectionLost(f"the database ends at {head}, but has acknowledged {newest}")
        self.saw(head)


FIRST_LOCK: Final = "BEGIN; SELECT revision FROM log WHERE id = 1 FOR UPDATE"
"""Begins a transaction that writes: one at a time, over all servers."""
