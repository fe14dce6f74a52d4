"""The engines that the suite runs on. A new engine is a class here and an entry in `ENGINES`."""

from __future__ import annotations

import hashlib
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

from keyauthority_server.store.base import Store
from keyauthority_server.store.counters import Counters
from keyauthority_server.store.sqlite import migrate, open_counters, open_store
from keyauthority_server.store.sqlite_connection import sqlite3
from tests.store.making import seal


class Engine(Protocol):
    """Makes stores of one engine, and looks behind their backs."""

    name: str

    def make(self, folder: Path) -> str:
        """Make an empty database, and return where it is."""
        ...

    def open(self, place: str) -> Store:
        """Open it; several times, and from several processes, if wanted."""
        ...

    def counters(self, place: str) -> Counters:
        """Open its counters, as often."""
        ...

    def rows(self, place: str, statement: str) -> list[Any]:
        """Run a statement behind the store's back, committed at once."""
        ...


class Sqlite:
    """The SQLite engine."""

    name = "sqlite"

    def make(self, folder: Path) -> str:
        """Make an empty database, and return its path."""
        path = folder / "keys.db"
        migrate(path)
        return str(path)

    def open(self, place: str) -> Store:
        """Open the database."""
        return open_store(Path(place), seal)

    def counters(self, place: str) -> Counters:
        """Open the counters beside the database."""
        return open_counters(Path(place))

    def rows(self, place: str, statement: str) -> list[Any]:
        """Run a statement on a connection of its own."""
        with closing(sqlite3.connect(place, isolation_level=None)) as connection:
            return connection.execute(statement).fetchall()


ENGINES: dict[str, Engine] = {"sqlite": Sqlite()}

TABLES = ("log", "project", "key", "change", "key_check", "request", "usage", "usage_batch")


def digests(engine: Engine, place: str) -> dict[str, dict[Any, str]]:
    """Return of every table its rows: primary key to a digest of all columns."""
    return {
        table: {
            row[0]: hashlib.sha256(repr(row).encode()).hexdigest()
            for row in engine.rows(place, _EVERYTHING[table])
        }
        for table in TABLES
    }


_EVERYTHING = {
    "log": "SELECT * FROM log",
    "project": "SELECT * FROM project",
    "key": "SELECT * FROM key",
    "change": "SELECT * FROM change",
    "key_check": "SELECT * FROM key_check",
    "request": "SELECT * FROM request",
    "usage": "SELECT * FROM usage",
    "usage_batch": "SELECT * FROM usage_batch",
}
