"""The newest committed time of a store, signed: the lower bound of its clock.

Expiry depends on it, and it moves without a change, as verifications are counted. So it carries a
MAC under the audit key: write access to the database allows to restore an older time, but not to
forge one.
"""

from __future__ import annotations

import hmac
from datetime import datetime
from typing import Final, NamedTuple

from keyauthority_server.store.interface import StoreDamaged, StoreError
from keyauthority_server.store.sql.queries.events import read_log
from keyauthority_server.store.sql.row_codec import microseconds, time_from
from keyauthority_server.store.sql.statements import LOG, Rows
from keyauthority_server.store.types import Entry, EntryMac, EntrySigner, NewestTime, SignedEntry

_ALTERED: Final = "the newest time of the log was altered: its MAC does not match"


class CounterRow(NamedTuple):
    """The single row of the table `log`, as `statements.LOG` reads it."""

    log_id: str
    revision: int
    hash: bytes
    time: int | None
    closed: int
    time_hash: bytes | None
    time_key_version: int | None


def counter_row(rows: Rows) -> CounterRow:
    """Return the counter row; StoreError if there is none."""
    row = rows.one(LOG)
    if row is None:
        raise StoreError("the counter row is missing")
    return CounterRow(*row)


def sealed_time(time: datetime, seal: EntrySigner) -> tuple[int, bytes, int]:
    """Return the parameters of `ADVANCE_TIME` for a time."""
    made = seal(NewestTime(microseconds(time)))
    return microseconds(time), made.hash, made.key_version


def newest_time(rows: Rows, counter: CounterRow, seal: EntrySigner) -> datetime | None:
    """Return the newest time, None for an empty log; StoreDamaged unless its MAC matches.

    A log of an older version has no MAC for its time, which is then that of the last entry.
    """
    time = counter.time
    if time is None:
        if counter.revision:
            raise StoreDamaged(_ALTERED)
        return None
    if counter.time_hash is None or counter.time_key_version is None:
        _check_last_entry(rows, counter, seal)
        return time_from(time)
    _check(seal, NewestTime(time), EntryMac(bytes(counter.time_hash), counter.time_key_version))
    return time_from(time)


def _check_last_entry(rows: Rows, counter: CounterRow, seal: EntrySigner) -> None:
    entries = read_log(rows, counter.revision - 1, 1)
    last = entries[0] if entries else None
    if not isinstance(last, SignedEntry) or microseconds(last.entry.time) != counter.time:
        raise StoreDamaged(_ALTERED)
    _check(seal, last.entry, last.seal)


def _check(seal: EntrySigner, content: Entry | NewestTime, found: EntryMac) -> None:
    try:
        expected = seal(content, found.key_version)
    except StoreDamaged as error:
        raise StoreDamaged(f"{_ALTERED}: {error}") from error
    if not hmac.compare_digest(expected.hash, found.hash):
        raise StoreDamaged(_ALTERED)
