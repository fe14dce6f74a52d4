"""Detects a database that has lost acknowledged changes, by a second copy of its head.

A write-ahead log that was cut, damaged or unlinked while no process had it open ends early without
an error: SQLite uses the rest, and the newest changes, possibly a revocation, are gone. An older
database that was copied into place has the same effect. The file `….head` next to the database
names the log and its newest committed revision; a database that ends before it is not opened.

The file is written after each commit and before its callers are answered, without a sync: it
survives the death of the process. After a loss of power it may be older than the database, but
never newer.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import threading
from pathlib import Path
from typing import Final

import structlog

from keyauthority.model import LogId, Revision
from keyauthority_server.private_files import open_private, read_private
from keyauthority_server.store.identifiers import log_id_from, revision_from
from keyauthority_server.store.interface import StoreUnusable
from keyauthority_server.store.sqlite.connection import sqlite3
from keyauthority_server.store.types import LogHead

_LINE: Final = re.compile(
    r"([0-9a-f-]{36}) ([0-9]{20})\n", re.ASCII
)  # one sector: written whole or not

_log = structlog.get_logger(__name__)


def head_path(database: Path) -> Path:
    """Return the path of a database's head file."""
    return database.with_name(database.name + ".head")


def read_saved_head(database: Path) -> LogHead | None:
    """Return the head saved next to the database; None if missing or malformed.

    Read it before the database, whose head is then the same or newer. Reserves the file descriptor
    with which heads are saved.
    """
    _SPARE.reserve()
    try:
        found = _LINE.fullmatch(read_private(head_path(database)))
    except (FileNotFoundError, UnicodeDecodeError):
        return None
    return LogHead(LogId(found[1]), Revision(int(found[2]))) if found else None


def check_head(connection: sqlite3.Connection, path: Path, saved: LogHead | None) -> LogHead:
    """Return the head of the database at `path`.

    Raises StoreUnusable unless it is that of the log's last entry, and at or after the saved one;
    sqlite3.Error.
    """
    row = connection.execute(_HEAD).fetchone()
    if row is None:
        raise StoreUnusable(f"{path} is damaged: the counter row is missing; restore it")
    log_id, revision = log_id_from(row[0]), revision_from(row[1])
    last, sealed, unfinished = row[2:]
    if unfinished:
        raise StoreUnusable(f"{path} is a copy that was not finished: run copy again")
    if not last or not sealed:
        raise StoreUnusable(f"{path} is damaged: its log does not end at its head; restore it")
    if saved is not None and saved.log_id != log_id:
        raise StoreUnusable(f"{path} was replaced: it holds another log than when last opened")
    if saved is not None and saved.revision > revision:
        raise StoreUnusable(
            f"{path} lacks changes {revision + 1} to {saved.revision}, which were acknowledged: it "
            f"or its write-ahead log was cut, damaged or exchanged; put the files back, or restore"
        )
    return LogHead(log_id, revision)


_HEAD: Final = (
    "SELECT log_id, revision, revision = (SELECT coalesce(max(revision), 0) FROM change),"
    " hash = coalesce((SELECT hash FROM change WHERE change.revision = log.revision), x''),"
    " closed AND hash = x'' FROM log WHERE id = 1"
)


class _Spare:
    """A reserved file descriptor: clients could use up all others."""

    def __init__(self) -> None:
        self._descriptor = -1
        self._changing = threading.Lock()

    def open(self, path: Path) -> int:
        """Open a private file for writing."""
        flags = os.O_WRONLY | os.O_CREAT
        try:
            return open_private(path, flags)
        except OSError as failure:
            if failure.errno != errno.EMFILE:
                raise
        with self._changing:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1
            return open_private(path, flags)

    def reserve(self) -> None:
        """Reserve a descriptor, if one is free."""
        if self._descriptor < 0:
            with self._changing, contextlib.suppress(OSError):
                self._descriptor = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)


_SPARE: Final = _Spare()


def save_head(file: Path, head: LogHead) -> None:
    """Save the newest committed head in a head file, under the writers' lock.

    A failure is logged: it does not undo the commit.
    """
    line = f"{head.log_id} {head.revision:020}\n".encode("ascii")
    try:
        descriptor = _SPARE.open(file)
        try:
            os.pwrite(descriptor, line, 0)
        finally:
            os.close(descriptor)
            _SPARE.reserve()
    except OSError as error:
        _log.error("head_not_noted", revision=head.revision, error=error.strerror)
