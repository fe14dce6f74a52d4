"""Selects the engine of a URL. The PostgreSQL driver is imported only for a URL that needs it."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from keyauthority_server.config import StoreUrl
from keyauthority_server.store.counters import Counters
from keyauthority_server.store.interface import Store, StoreUnusable
from keyauthority_server.store.sqlite import store
from keyauthority_server.store.sqlite.transfer import SqliteEndpoint
from keyauthority_server.store.transfer import Endpoint
from keyauthority_server.store.types import EntrySigner


class Postgres(Protocol):
    """The interface of the engine's package."""

    def is_made(self, url: str) -> bool:
        """See `is_made`."""
        ...

    def migrate(self, url: str) -> None:
        """See `migrate`."""
        ...

    def open_store(self, url: str, sign: EntrySigner, *, checked: bool = True) -> Store:
        """See `open_store`."""
        ...

    def open_counters(self, url: str) -> Counters:
        """See `open_counters`."""
        ...

    def open_endpoint(self, url: str) -> Endpoint:
        """See `open_endpoint`."""
        ...


def is_made(url: StoreUrl) -> bool:
    """True if the authority's database exists, in any version. Raises StoreError."""
    if url.is_postgres:
        return _postgres().is_made(url.reveal())
    return url.sqlite_path.exists()


def migrate(url: StoreUrl) -> None:
    """Migrate the store and its counters to the newest schema; create them if missing.

    Raises StoreUnusable with a one-line reason if it must not be touched, StoreError if the system
    fails.
    """
    if url.is_postgres:
        _postgres().migrate(url.reveal())
    else:
        store.migrate(url.sqlite_path)


def open_store(
    url: StoreUrl, sign: EntrySigner, *, checkpoints: bool = True, checked: bool = True
) -> Store:
    """Open the store, which `migrate` has created; for the flags see `sqlite.store.open_store`.

    Raises StoreUnusable with a one-line reason if it must not be opened, and StoreUnavailable.
    """
    if url.is_postgres:
        return _postgres().open_store(url.reveal(), sign, checked=checked)
    return store.open_store(url.sqlite_path, sign, checkpoints=checkpoints, checked=checked)


def open_counters(url: StoreUrl, *, checkpoints: bool = True) -> Counters:
    """Open the counters of the store; see `open_store`."""
    if url.is_postgres:
        return _postgres().open_counters(url.reveal())
    return store.open_counters(url.sqlite_path, checkpoints=checkpoints)


def open_endpoint(url: StoreUrl, *, source: bool) -> Endpoint:
    """Open an endpoint of a copy, which `migrate` has created; see `open_store`."""
    if url.is_postgres:
        return _postgres().open_endpoint(url.reveal())
    return SqliteEndpoint(url.sqlite_path, whole=source)


def files(url: StoreUrl) -> tuple[Path, ...]:
    """Return the store's files on this machine, existing or not."""
    return () if url.is_postgres else store.sqlite_files(url.sqlite_path)


def check_workers(url: StoreUrl, workers: int) -> None:
    """Raise StoreUnusable if the store cannot serve this many processes of one machine."""
    if not url.is_postgres and workers > 1 and store.affected_library():
        raise StoreUnusable(
            "this SQLite can corrupt a database that several processes write: install "
            "pysqlite3 0.6.1 or newer, or take --workers 1"
        )


def _postgres() -> Postgres:
    try:
        from keyauthority_server.store import postgres
    except ImportError as error:
        raise StoreUnusable(
            "PostgreSQL needs a driver that is not installed: pip install 'keyauthority[postgres]'"
        ) from error
    return postgres
