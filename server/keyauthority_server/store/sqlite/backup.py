"""Copies of a SQLite database: taken while servers write, and checked before use.

A copy is written under a temporary name in its destination folder. It gets its final name only when
it is complete, checked and synced, and never replaces another file.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from keyauthority.model import LogId, Revision
from keyauthority_server.store.interface import StoreUnusable
from keyauthority_server.store.sqlite.connection import FILES, WRITE_BUSY_MS, connect, sqlite3
from keyauthority_server.store.sqlite.file_lock import LOCKS
from keyauthority_server.store.sqlite.rollback_guard import check_head
from keyauthority_server.store.sqlite.schema import RECORDS, check_schema, refused_or_failed

STEP_PAGES: Final = 256  # copied per step: 1 MB
SYNCED_PAGES: Final = 1_024  # per sync, 4 MB: more would delay the syncs of a running server
UNFINISHED: Final = ".part"  # suffix of an incomplete or unchecked copy

_MODE: Final = 0o600


class Content(NamedTuple):
    """The content of a copy."""

    log_id: LogId
    revision: Revision
    keys: int


def back_up(database: Path, file: Path) -> Content:
    """Copy one state of the database to a new file of mode 0600; return its content.

    Servers may run meanwhile. Raises StoreUnusable if the file exists, or if the database or the
    copy fails its checks, and StoreError; the file then does not exist.
    """
    if os.path.lexists(file):
        raise StoreUnusable(f"{file} exists: name a new file for the backup")
    if not database.is_file():
        raise StoreUnusable(f"there is no database at {database}")
    with unfinished(file) as draft:
        copy(database, draft)
        content = check_copy(draft)
        try:
            os.link(draft, file)  # unlike rename it never replaces a file
        except OSError as error:
            raise StoreUnusable(f"cannot make {file}: {error.strerror}") from error
    sync(file.parent)
    return content


@contextmanager
def unfinished(file: Path) -> Iterator[Path]:
    """Yield the path of a new, empty file next to `file`; remove it at the end."""
    draft = file.with_name(f"{file.name}.{secrets.token_hex(4)}{UNFINISHED}")
    try:
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE))
    except OSError as error:
        raise StoreUnusable(f"cannot make {file}: {error.strerror}") from error
    try:
        yield draft
    finally:
        for ending in (*FILES, *LOCKS):
            draft.with_name(draft.name + ending).unlink(missing_ok=True)


def copy(database: Path, draft: Path, *, private: bool = True) -> None:
    """Copy all pages of one state into an empty file, and sync it.

    Unless `private`, the file mode of the database is not checked, as for a backup from elsewhere.
    Raises StoreUnusable unless it is an authority's database, and StoreError.
    """
    try:
        with closing(connect(database, WRITE_BUSY_MS, private=private)) as source:
            check_schema(source, database, RECORDS, missing_allowed=True)
            source.execute("BEGIN")
            check_head(source, database, None)  # its read pins the state to copy
            with closing(sqlite3.connect(draft, isolation_level=None)) as target:
                target.execute("PRAGMA synchronous = OFF")
                target.execute("PRAGMA journal_mode = OFF")
                with _syncing(draft) as progress:
                    source.backup(target, pages=STEP_PAGES, progress=progress)
            with closing(sqlite3.connect(draft, isolation_level=None)) as target:
                target.execute("PRAGMA journal_mode = DELETE")  # one file, without a separate log
    except sqlite3.DatabaseError as error:
        raise refused_or_failed(error, database) from error
    sync(draft)


def check_copy(path: Path) -> Content:
    """Return the content of a file that no server has open.

    Raises StoreUnusable unless it is an undamaged authority's database with a gapless log, and
    StoreError.
    """
    try:
        with closing(connect(path, WRITE_BUSY_MS)) as connection:
            check_schema(connection, path, RECORDS, missing_allowed=True)
            for statement in (_INTEGRITY, _FOREIGN_KEYS):
                found = connection.execute(statement).fetchone()
                if found is not None and found != ("ok",):
                    raise StoreUnusable(f"{path} is damaged: {found[0]}")
            head = check_head(connection, path, None)
            changes, keys = connection.execute(_COUNTS).fetchone()
    except sqlite3.DatabaseError as error:
        raise refused_or_failed(error, path) from error
    if changes != head.revision:
        raise StoreUnusable(f"{path} is damaged: it has {changes} changes of {head.revision}")
    return Content(head.log_id, head.revision, keys)


@contextmanager
def _syncing(draft: Path) -> Iterator[Callable[[int, int, int], None]]:
    """Yield a progress callback that syncs a copy at intervals."""
    opened = os.open(draft, os.O_RDONLY | os.O_CLOEXEC)
    waiting = 0

    def progress(status: int, remaining: int, total: int) -> None:
        nonlocal waiting
        waiting += STEP_PAGES
        if waiting >= SYNCED_PAGES:
            os.fdatasync(opened)
            waiting = 0

    try:
        yield progress
    finally:
        os.close(opened)


_INTEGRITY: Final = "PRAGMA integrity_check(1)"
_FOREIGN_KEYS: Final = "PRAGMA foreign_key_check"
_COUNTS: Final = "SELECT (SELECT count(*) FROM change), (SELECT count(*) FROM key)"


def sync(path: Path) -> None:
    """Sync a file or folder to the disk."""
    try:
        opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
    except OSError as error:
        raise StoreUnusable(f"cannot sync {path}: {error.strerror}") from error
