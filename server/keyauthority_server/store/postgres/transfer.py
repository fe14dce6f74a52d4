"""A database of PostgreSQL as one end of a copy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from keyauthority_server.store.postgres.connection import Patience, parameters
from keyauthority_server.store.postgres.counters import HOLD_UP_DRAWS
from keyauthority_server.store.postgres.rollback_guard import FIRST_LOCK
from keyauthority_server.store.postgres.rows import PostgresRows
from keyauthority_server.store.postgres.schema import check_schema
from keyauthority_server.store.transfer import COUNTERS, SERIALS, TABLES

# Longer than what is waited for at the other end of the copy, between two statements.
PATIENCE: Final = Patience(statement=120, server=0, lock=10, idle=120)

_NEXT_IDS: Final = tuple(
    f"SELECT setval(pg_get_serial_sequence('{table}', 'id'),"  # noqa: S608 - names of tables
    f" coalesce(max(id), 1), max(id) IS NOT NULL) FROM {table}"
    for table in SERIALS
)
_ANALYZE: Final = tuple(f"ANALYZE {table.name}" for table in (*TABLES, COUNTERS))
_IDENTITY: Final = (
    "SELECT pg_postmaster_start_time()::text, oid::text FROM pg_database"
    " WHERE datname = current_database()"
)


class PostgresEndpoint:
    """`copying.Place` on PostgreSQL. Servers may use it."""

    def __init__(self, url: str) -> None:
        """Connect; raises StoreRefused with one line, and StoreError."""
        self._rows = PostgresRows(parameters(url), PATIENCE, check_schema)
        self._rows.ready()

    @property
    def rows(self) -> PostgresRows:
        """Runs statements on the database."""
        return self._rows

    @property
    def counters(self) -> PostgresRows:
        """The same: the counters are a table like the others."""
        return self._rows

    @property
    def identity(self) -> str:
        """The database, however it was named."""
        return " ".join(self._rows.one(_IDENTITY))

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold up all other writers, and commit at the end."""
        with self._transaction(FIRST_LOCK):
            yield

    @contextmanager
    def writing_counters(self) -> Iterator[None]:
        """Hold up all who draw, and commit at the end."""
        with self._transaction(HOLD_UP_DRAWS):
            yield

    def opened_as(self, log_id: str, revision: int) -> None:
        """Let ids go on behind those that were copied, and tell the planner what there is."""
        for statement in (*_NEXT_IDS, *_ANALYZE):
            self._rows.run(statement)

    def close(self) -> None:
        """Let go of the connection."""
        self._rows.drop()

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[None]:
        try:
            self._rows.begin(begin)
            yield
            self._rows.commit()
        finally:
            self._rows.roll_back()


def open_endpoint(url: str) -> PostgresEndpoint:
    """Open a database, which `migrate` has made, as one end of a copy."""
    return PostgresEndpoint(url)
