"""Checks each record that is read against the change log.

A row is accepted if the entry that it names holds an identical record, and the log has no later
entry of that record. So neither a damaged byte nor an older row that was written back is ever
evaluated, returned or changed. The statements of `statements` that read records also select this
evidence. `reconcile` compares all records, and `audit verify` proves the log itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from keyauthority.model import Project
from keyauthority.weight import weight_of
from keyauthority_server.store.interface import StoreDamaged
from keyauthority_server.store.rows import Row
from keyauthority_server.store.sql.row_codec import (
    KEY_COLUMNS,
    PROJECT_COLUMNS,
    UNREADABLE,
    flat_from,
    key_from,
    project_from,
)
from keyauthority_server.store.sql.statements import EVIDENCE_WIDTH, RECORD_AT
from keyauthority_server.store.types import StoredKey
from keyauthority_server.weighted_cache import WeightedCache

CHECKED_RECORDS: Final = 1_024  # keys, and as many projects: those that are being changed


def stored_key(row: Row) -> StoredKey:
    """Return the key of a row of `GET_KEY`; StoreDamaged unless the log agrees."""
    last_used_time, digest, pepper_version, lineage = row[:RECORD_AT]
    record = _agreed(KEY_COLUMNS, row[RECORD_AT:], in_list=True)
    try:
        return StoredKey(key_from(record, last_used_time), digest, pepper_version, lineage)
    except (*UNREADABLE, StoreDamaged) as error:
        raise _damaged(row[RECORD_AT]) from error


def compared_key(row: Row) -> StoredKey:
    """Return the key of a row of `KEY_ROW` in a database whose records were all compared."""
    last_used_time, digest, pepper_version, lineage = row[:RECORD_AT]
    record = flat_from(KEY_COLUMNS, row[RECORD_AT:])
    return StoredKey(key_from(record, last_used_time), digest, pepper_version, lineage)


def stored_project(row: Row) -> Project:
    """Return the project of a row of `GET_PROJECT`; StoreDamaged unless the log agrees."""
    record = _agreed(PROJECT_COLUMNS, row, in_list=False)
    try:
        return project_from(record)
    except (*UNREADABLE, StoreDamaged) as error:
        raise _damaged(row[0]) from error


def check_newest(row: Row) -> None:
    """Raise StoreDamaged if the log has a later entry of the record than its row names.

    For a row of `GET_KEY` without its first columns, or of `GET_PROJECT`.
    """
    name, revision, later = row[0], row[1], row[-EVIDENCE_WIDTH]
    if later is not None:
        raise StoreDamaged(
            f"the record {name!r} was put back to change {revision}: the log has change {later}"
        )


def _agreed(columns: Sequence[str], row: Row, *, in_list: bool) -> Mapping[str, Any]:
    """Return the record of a row of these columns plus evidence, as its entry holds it."""
    check_newest(row)
    *values, _, entry = row
    try:
        found = flat_from(columns, values)
        written = json.loads(entry) if entry is not None else None
        records = written if in_list else [written]
        if found in (records or ()):
            return found
    except (*UNREADABLE, RecursionError):  # damaged text may also be invalid JSON
        pass
    raise _damaged(row[0])


def _damaged(name: object) -> StoreDamaged:
    return StoreDamaged(f"the record {name!r} differs from the change log: damaged or altered")


class CheckedRecords:
    """Reuses records that were compared with the log, while their row is unchanged.

    It identifies them by their rows, not by revisions: a transaction may be rolled back, and its
    revision be reused by another change. Not thread-safe.
    """

    def __init__(self) -> None:
        self._keys: WeightedCache[str, tuple[Row, StoredKey]] = WeightedCache(CHECKED_RECORDS)
        self._projects: WeightedCache[str, tuple[Row, Project]] = WeightedCache(CHECKED_RECORDS)

    def key(self, row: Row) -> StoredKey:
        """Return the key of a row; see `stored_key`."""
        access_key = row[RECORD_AT]
        checked = self._keys.get(access_key)
        if checked is not None and checked[0] == row:
            return checked[1]
        stored = stored_key(row)
        self._keys.keep(access_key, (row, stored), weight_of(stored.key))
        return stored

    def project(self, row: Row) -> Project:
        """Return the project of a row; see `stored_project`."""
        checked = self._projects.get(row[0])
        if checked is not None and checked[0] == row:
            return checked[1]
        project = stored_project(row)
        self._projects.keep(row[0], (row, project), weight_of(project))
        return project
