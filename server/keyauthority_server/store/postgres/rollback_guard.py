"""Detects a database that holds another log, or that has lost acknowledged changes.

After a failover, or with an old primary that still runs, a connection may lead to a database that
lacks acknowledged changes, or that has made other changes under the same revisions. Such a
connection is not used: another host may have all changes.
"""

from __future__ import annotations

import hmac
import threading
from typing import Final

from keyauthority.model import LogId, Revision
from keyauthority_server.store.postgres.connection import ConnectionLost
from keyauthority_server.store.postgres.rows import PostgresRows
from keyauthority_server.store.postgres.schema import check_schema
from keyauthority_server.store.sql.log_head import checked_head
from keyauthority_server.store.sql.statements import LOG
from keyauthority_server.store.types import LogHead

_HASH: Final = "SELECT hash FROM change WHERE revision = ?"


class RollbackGuard:
    """The log's id and the newest revision seen. Shared by all threads of a process."""

    def __init__(self, *, altered_allowed: bool = False) -> None:
        """`altered_allowed` admits a database with an altered schema, for inspection."""
        self._altered_allowed = altered_allowed
        self.log_id: LogId | None = None
        self._newest = Revision(0)
        self._known: LogHead | None = None  # the newest head seen with its hash
        self._lock = threading.Lock()
        self.acknowledged = Revision(0)
        """The newest revision committed by this process."""

    @property
    def newest(self) -> Revision:
        """The lower bound of every later head."""
        return self._newest

    def saw(self, revision: Revision) -> None:
        """Record a head that was read or committed."""
        with self._lock:
            self._newest = max(self._newest, revision)

    def committed(self, revision: Revision) -> None:
        """Record a head that this process has committed, before its callers are answered."""
        self.saw(revision)
        self.acknowledged = max(self.acknowledged, revision)

    def admit(self, rows: PostgresRows) -> None:
        """Raise unless a new connection leads to the log with all changes seen so far.

        ConnectionLost if another host may have them; StoreUnusable if it must not be opened.
        """
        check_schema(rows, altered_allowed=self._altered_allowed)
        newest, known = self._newest, self._known
        with rows.reading():
            head = checked_head(rows)
            if self.log_id is None:
                self.log_id = head.log_id
            elif self.log_id != head.log_id:
                raise ConnectionLost("the database has another log than the one that was opened")
            if head.revision < newest:
                raise _lacking(head.revision, newest)
            if known is not None:
                _check_change(rows, known)
            self._note(head)

    def check(self, rows: PostgresRows, head: Revision, newest: Revision) -> None:
        """Drop a connection and raise ConnectionLost if its `head` is too old.

        `newest` is the newest revision seen when the read began.
        """
        if head < newest:
            rows.drop()
            raise _lacking(head, newest)
        self.saw(head)
        if self._known is None or head > self._known.revision:
            self._note(checked_head(rows))

    def check_writable(self, rows: PostgresRows, head: Revision) -> None:
        """Raise ConnectionLost if a transaction that holds the lock lacks seen changes.

        With a connection pooler each transaction may lead to another database.
        """
        if head < self._newest:
            newest = self._newest
            rows.drop()
            raise _lacking(head, newest)

    def check_now(self, rows: PostgresRows, newest: Revision) -> None:
        """Check as `check` does, with the connection's current head."""
        self.check(rows, checked_head(rows).revision, newest)

    def _note(self, head: LogHead) -> None:
        self.saw(head.revision)
        if head.hash:  # an empty log has none, nor an unfinished copy, which lacks the change
            with self._lock:
                if self._known is None or head.revision > self._known.revision:
                    self._known = head


def _check_change(rows: PostgresRows, known: LogHead) -> None:
    row = rows.one(_HASH, (known.revision,))
    if row is None or not hmac.compare_digest(row[0], known.hash):
        raise ConnectionLost(f"the database lacks the change {known.revision} that was seen")


def _lacking(head: Revision, newest: Revision) -> ConnectionLost:
    return ConnectionLost(f"the database ends at {head}, but has acknowledged {newest}")


FIRST_LOCK: Final = f"{LOG} FOR UPDATE"
"""The first statement of a writing transaction: admits one at a time, over all servers."""
