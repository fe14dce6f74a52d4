"""A PostgreSQL database as an endpoint of a copy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from keyauthority_server.store.postgres.connection import Patience, parameters
from keyauthority_server.store.postgres.counters import EXCLUDE_SPENDS
from keyauthority_server.store.postgres.rollback_guard import FIRST_LOCK
from keyauthority_server.store.postgres.rows import PostgresRows
from keyauthority_server.store.postgres.schema import check_schema
from keyauthority_server.store.sql.tables import COUNTERS, SERIALS, TABLES
from keyauthority_server.store.types import LogHead

# Longer than any wait at the other endpoint of the copy, between two statements.
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
    """`transfer.Endpoint` on PostgreSQL. Servers may use the database meanwhile."""

    def __init__(self, url: str) -> None:
        """Connect; raises StoreUnusable with a one-line reason, and StoreError."""
        self._rows = PostgresRows(parameters(url), PATIENCE, check_schema)
        self._rows.ready()

    @property
    def rows(self) -> PostgresRows:
        """Runs statements on the database."""
        return self._rows

    @property
    def counters(self) -> PostgresRows:
        """Runs statements on the same database: the counters are a table like the others."""
        return self._rows

    @property
    def identity(self) -> str:
        """Identifies the database, independently of its URL."""
        return " ".join(self._rows.one(_IDENTITY))

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Exclude all other writers, and commit at the end."""
        with self._transaction(FIRST_LOCK):
            yield

    @contextmanager
    def writing_counters(self) -> Iterator[None]:
        """Exclude all spends, and commit at the end."""
        with self._transaction(EXCLUDE_SPENDS):
            yield

    def opened_as(self, head: LogHead) -> None:
        """Continue ids after the copied ones, and collect statistics for the planner."""
        for statement in (*_NEXT_IDS, *_ANALYZE):
            self._rows.run(statement)

    def close(self) -> None:
        """Close the connection."""
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
    """Open a database, which `migrate` has created, as an endpoint of a copy."""
    return PostgresEndpoint(url)
