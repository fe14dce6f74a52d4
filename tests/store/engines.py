"""The engines that the suite runs on. A new engine is a class here and an entry in `ENGINES`."""

from __future__ import annotations

import fcntl
import hashlib
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

from keyauthority_server.store import postgres
from keyauthority_server.store.counters import Counters
from keyauthority_server.store.interface import Store
from keyauthority_server.store.sqlite.connection import sqlite3
from keyauthority_server.store.sqlite.counters import counters_path
from keyauthority_server.store.sqlite.store import migrate, open_counters, open_store
from tests.postgres import Cluster, execute, holding
from tests.store.factories import sign


class Engine(Protocol):
    """Makes stores of one engine, and looks behind their backs."""

    name: str

    def nowhere(self, folder: Path) -> str:
        """Return a place where no database of ours was made yet."""
        ...

    def migrate(self, place: str) -> None:
        """Make a database there, or bring it to the newest schema."""
        ...

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
        """Run a statement behind the store's back, committed at once. Bytes are spelt x'01'."""
        ...

    def writers_held_up(self, place: str) -> AbstractContextManager[None]:
        """Stand in the way of all writers, as a process does that was stopped in a write."""
        ...

    def spends_held_up(self, place: str) -> AbstractContextManager[None]:
        """Stand in the way of all who spend."""
        ...

    @property
    def timeouts(self) -> tuple[str, str]:
        """The settings that say how long a write is waited for, and a spend."""
        ...


class Sqlite:
    """The SQLite engine."""

    name = "sqlite"

    def nowhere(self, folder: Path) -> str:
        """Return the path of a file that is not there."""
        return str(folder / "keys.db")

    def migrate(self, place: str) -> None:
        """Make the file, or bring it to the newest schema."""
        migrate(Path(place))

    def make(self, folder: Path) -> str:
        """Make an empty database, and return its path."""
        place = self.nowhere(folder)
        self.migrate(place)
        return place

    def open(self, place: str) -> Store:
        """Open the database."""
        return open_store(Path(place), sign)

    def counters(self, place: str) -> Counters:
        """Open the counters beside the database."""
        return open_counters(Path(place))

    def rows(self, place: str, statement: str) -> list[Any]:
        """Run a statement on a connection of its own."""
        with closing(sqlite3.connect(place, isolation_level=None)) as connection:
            return connection.execute(statement).fetchall()

    def writers_held_up(self, place: str) -> AbstractContextManager[None]:
        """Hold the lock file of the database."""
        return _locked(Path(place))

    def spends_held_up(self, place: str) -> AbstractContextManager[None]:
        """Hold the lock file of the counters."""
        return _locked(counters_path(Path(place)))

    timeouts = (
        "keyauthority_server.store.sqlite.store.WRITE_TIMEOUT",
        "keyauthority_server.store.sqlite.counters.SPEND_TIMEOUT",
    )


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    with Path(f"{file}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Postgres:
    """The PostgreSQL engine. A place is the URL of a database in the tests' own cluster."""

    name = "postgres"
    cluster: Cluster | None = None  # not in the processes that tests start: they get the place

    def nowhere(self, folder: Path) -> str:
        """Return the URL of an empty database."""
        assert self.cluster is not None
        return self.cluster.create()

    def migrate(self, place: str) -> None:
        """Make the schema, or bring it to the newest."""
        postgres.migrate(place)

    def make(self, folder: Path) -> str:
        """Make a database, and return its URL."""
        assert self.cluster is not None
        return self.cluster.take()

    def open(self, place: str) -> Store:
        """Open the database."""
        return postgres.open_store(place, sign)

    def counters(self, place: str) -> Counters:
        """Open the counters in the database."""
        return postgres.open_counters(place)

    def rows(self, place: str, statement: str) -> list[Any]:
        """Run a statement on a connection of its own."""
        return execute(place, _BYTES.sub(r"'\\x\1'", statement))

    def writers_held_up(self, place: str) -> AbstractContextManager[None]:
        """Hold the counter row's table in a transaction."""
        return holding(place, "log")

    def spends_held_up(self, place: str) -> AbstractContextManager[None]:
        """Hold the counters' table in a transaction."""
        return holding(place, "counter")

    timeouts = (
        "keyauthority_server.store.postgres.writer.WRITE_SECONDS",
        "keyauthority_server.store.postgres.counters.SPEND_SECONDS",
    )


_BYTES = re.compile("x'([0-9a-f]*)'")

POSTGRES = Postgres()
ENGINES: dict[str, Engine] = {"sqlite": Sqlite(), "postgres": POSTGRES}


TABLES = (
    "log",
    "project",
    "key",
    "change",
    "key_check",
    "import_set",
    "request",
    "usage",
    "usage_batch",
    "refused",
    "sighting",
    "permission_use",
    "permission_use_start",
)


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
    "import_set": "SELECT * FROM import_set",
    "request": "SELECT * FROM request",
    "usage": "SELECT * FROM usage",
    "usage_batch": "SELECT * FROM usage_batch",
    "refused": "SELECT * FROM refused",
    "sighting": "SELECT * FROM sighting",
    "permission_use": "SELECT * FROM permission_use",
    "permission_use_start": "SELECT * FROM permission_use_start",
}
