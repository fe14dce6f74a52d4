"""Each record lies in two places, its row and the entry of the log that wrote it, and they agree.

What damages one leaves the other: a record whose row says something else is neither judged nor
changed, so that a byte that was flipped in a revocation or an expiry is never a VALID. That is
looked at when a record is decoded; `agreement` compares all of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Final

from keyauthority.model import Project, Revision
from keyauthority_server.bounded import Bounded, weight_of
from keyauthority_server.store.base import StoreUnavailable
from keyauthority_server.store.records import (
    KEY_COLUMNS,
    PROJECT_COLUMNS,
    Row,
    flat_from,
    project_from,
    record_of,
)
from keyauthority_server.store.sql import RECORD_AT, held_from
from keyauthority_server.store.values import Held

CHECKED: Final = 1_024  # of keys and of projects: those that changes are made for

ReadEntry = Callable[[Revision], Row | None]
"""Reads what `sql.GET_RECORDED` gives of the log's entry of a revision."""


def check_recorded(columns: Sequence[str], row: Row, read_entry: ReadEntry) -> None:
    """Raise StoreUnavailable unless a row of just these columns is what its entry has written.

    The columns begin with the record's name and its revision.
    """
    name, revision = row[:2]
    entry = read_entry(revision)
    try:
        agrees = entry is not None and flat_from(columns, row) in _records(entry)
    except (ValueError, TypeError, RecursionError):  # what is damaged may be no JSON either
        agrees = False
    if not agrees:
        raise StoreUnavailable(f"the record {name!r} is not what the log says of it: damaged")


def _records(entry: Row) -> Sequence[object]:
    keys, project = entry
    return [*json.loads(keys), *([] if project is None else [json.loads(project)])]


class Checked:
    """Records decoded and compared, kept while the row read just now is what they came from.

    By their rows, not by revisions: what a transaction has written may be taken back, and its
    revision be that of another change. Not for more than one thread.
    """

    def __init__(self) -> None:
        self._keys: Bounded[str, tuple[Row, Held]] = Bounded(CHECKED)
        self._projects: Bounded[str, tuple[Row, Project]] = Bounded(CHECKED)

    def key(self, row: Row, read_entry: ReadEntry) -> Held:
        """Return the key of a row of `HELD_ROW`; see `check_recorded`."""
        access_key = row[RECORD_AT]
        kept = self._keys.get(access_key)
        if kept is not None and kept[0] == row:
            return kept[1]
        check_recorded(KEY_COLUMNS, row[RECORD_AT:], read_entry)
        held = held_from(row)
        self._keys.keep(access_key, (row, held), weight_of(held.key))
        return held

    def project(self, row: Row, read_entry: ReadEntry) -> Project:
        """Return the project of a row of just its columns; see `check_recorded`."""
        project_id = row[0]
        kept = self._projects.get(project_id)
        if kept is not None and kept[0] == row:
            return kept[1]
        check_recorded(PROJECT_COLUMNS, row, read_entry)
        project = project_from(record_of(PROJECT_COLUMNS, row))
        self._projects.keep(project_id, (row, project), weight_of(project))
        return project
