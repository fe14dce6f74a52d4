"""Copies of a SQLite database: taken while servers write, and checked before they count.

A copy is made under another name, in the folder where it shall be. It gets its own name only when
it is whole, checked and on the disk, and never in place of another file.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from keyauthority.model import Revision
from keyauthority_server.store.interface import StoreUnusable
from keyauthority_server.store.sqlite.connection import WRITE_BUSY_MS, connect, sqlite3
from keyauthority_server.store.sqlite.rollback_guard import check_head
from keyauthority_server.store.sqlite.schema import RECORDS, check_schema, refused_or_failed

STEP_PAGES: Final = 256  # copied between two looks at what is still to be synced: 1 MB
SYNCED_PAGES: Final = 1_024  # 4 MB: more at once would hold up the syncs of a running server
UNFINISHED: Final = ".part"  # how the name of a copy ends that is not whole, or was not checked

_MODE: Final = 0o600


class Content(NamedTuple):
    """What a copy holds."""

    log_id: str
    revision: Revision
    keys: int


def back_up(database: Path, file: Path) -> Content:
    """Copy the database, of one moment, to a new file of mode 0600, and return what that holds.

    Servers go on. Raises StoreRefused if the file is there already, or if either end is not to be
    trusted, and StoreError; then there is no such file.
    """
    if os.path.lexists(file):
        raise StoreUnusable(f"{file} is there already: a backup takes the place of nothing")
    if not database.is_file():
        raise StoreUnusable(f"there is no database at {database}")
    with unfinished(file) as draft:
        copy(database, draft)
        content = check_copy(draft)
        try:
            os.link(draft, file)  # unlike a rename it never replaces what is there
        except OSError as error:
            raise StoreUnusable(f"cannot make {file}: {error.strerror}") from error
    sync(file.parent)
    return content


@contextmanager
def unfinished(file: Path) -> Iterator[Path]:
    """Give the path of a new and empty file beside `file`, and remove it in the end."""
    draft = file.with_name(f"{file.name}.{secrets.token_hex(4)}{UNFINISHED}")
    try:
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE))
    except OSError as error:
        raise StoreUnusable(f"cannot make {file}: {error.strerror}") from error
    try:
        yield draft
    finally:
        for ending in ("", "-journal", "-wal", "-shm", ".lock", ".gate"):
            draft.with_name(draft.name + ending).unlink(missing_ok=True)


def copy(database: Path, draft: Path, *, private: bool = True) -> None:
    """Copy all pages of one moment into an empty file, and sync it.

    Unless `private`, the database may be open to others, as a backup from elsewhere may be.

    Raises StoreRefused if the database is not ours, and StoreError.
    """
    try:
        with closing(connect(database, WRITE_BUSY_MS, private=private)) as source:
            check_schema(source, database, RECORDS, missing_allowed=True)
            source.execute("BEGIN")
            check_head(source, database, None)  # it reads: from here on this moment is held
            with closing(sqlite3.connect(draft, isolation_level=None)) as target:
                target.execute("PRAGMA synchronous = OFF")
                target.execute("PRAGMA journal_mode = OFF")
                with _syncing(draft) as progress:
                    source.backup(target, pages=STEP_PAGES, progress=progress)
            with closing(sqlite3.connect(draft, isolation_level=None)) as target:
                target.execute("PRAGMA journal_mode = DELETE")  # one file, without a log beside it
    except sqlite3.DatabaseError as error:
        raise refused_or_failed(error, database) from error
    sync(draft)


def check_copy(path: Path) -> Content:
    """Return what a file holds that no server has open.

    Raises StoreRefused unless it is ours and whole, its log without a gap, and StoreError.
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
    """Give what is told of each step of a copy, and syncs it now and then."""
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
    """Return when the file, or folder, is on the disk."""
    try:
        opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
    except OSError as error:
        raise StoreUnusable(f"cannot sync {path}: {error.strerror}") from error
