"""The head of the log in the counter row, and the newest committed time that it holds.

The newest time is the lower bound of the store's clock. Expiry depends on it, and it moves without
a change, as verifications are counted. So it carries a MAC under the audit key: write access to the
database allows to restore an older time, but not to forge one.
"""

from __future__ import annotations

import hmac
from datetime import datetime
from typing import Final

from keyauthority_server.store.identifiers import log_id_from, revision_from
from keyauthority_server.store.interface import StoreDamaged, StoreError, StoreUnusable
from keyauthority_server.store.rows import Row, Rows
from keyauthority_server.store.sql.queries.events import read_log
from keyauthority_server.store.sql.row_codec import microseconds, time_from
from keyauthority_server.store.sql.statements import LOG
from keyauthority_server.store.types import (
    Entry,
    EntryMac,
    EntrySigner,
    LogHead,
    NewestTime,
    SignedEntry,
)

_ALTERED: Final = "the newest time of the log was altered: its MAC does not match"


def read_head(rows: Rows) -> LogHead:
    """Return the head of the log as the counter row holds it; StoreError without one."""
    head = _stored_head(rows)
    if head is None:
        raise StoreError("the counter row is missing")
    return head


def checked_head(rows: Rows) -> LogHead:
    """Return the head of the log; StoreUnusable without a row of valid log_id and revision."""
    head = _stored_head(rows)
    if head is None:
        raise StoreUnusable("the database is damaged: the counter row is missing; restore it")
    return head._replace(log_id=log_id_from(head.log_id), revision=revision_from(head.revision))


def _stored_head(rows: Rows) -> LogHead | None:
    row = rows.one(LOG)
    return None if row is None else head_of(row)


def head_of(row: Row) -> LogHead:
    """Return the head of the log in a row of `LOG`."""
    log_id, revision, hash_, time, closed, time_hash, version = row
    mac = None if time_hash is None or version is None else EntryMac(bytes(time_hash), version)
    return LogHead(log_id, revision, bytes(hash_), time, bool(closed), mac)


def signed_time(time: datetime, sign: EntrySigner) -> tuple[int, bytes, int]:
    """Return the last parameters of `ADVANCE_LOG`, for a time."""
    newest = NewestTime(microseconds(time))
    mac = sign(newest)
    return newest.microseconds, mac.hash, mac.key_version


def newest_time(rows: Rows, head: LogHead, sign: EntrySigner) -> datetime | None:
    """Return the newest time, None for an empty log; StoreDamaged unless its MAC matches.

    A log of an older version has no MAC for its time, which is then that of the last entry.
    """
    time = head.time
    if time is None:
        if head.revision:
            raise StoreDamaged(_ALTERED)
        return None
    if head.time_mac is None:
        _check_last_entry(rows, head, sign)
    else:
        _check(sign, NewestTime(time), head.time_mac)
    return time_from(time)


def _check_last_entry(rows: Rows, head: LogHead, sign: EntrySigner) -> None:
    entries = read_log(rows, head.revision - 1, 1)
    last = entries[0] if entries else None
    if not isinstance(last, SignedEntry) or microseconds(last.entry.time) != head.time:
        raise StoreDamaged(_ALTERED)
    _check(sign, last.entry, last.mac)


def _check(sign: EntrySigner, content: Entry | NewestTime, found: EntryMac) -> None:
    try:
        expected = sign(content, found.key_version)
    except StoreDamaged as error:
        raise StoreDamaged(f"{_ALTERED}: {error}") from error
    if not hmac.compare_digest(expected.hash, found.hash):
        raise StoreDamaged(_ALTERED)
