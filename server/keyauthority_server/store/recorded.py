"""Each record lies in two places, its row and the entry of the log that wrote it, and they agree.

What damages one leaves the other: a record whose row says something else is neither judged nor
changed, so that a byte that was flipped in a revocation or an expiry is never a VALID. That is
looked at when a record is decoded; `agreement` compares all of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from keyauthority.model import Revision
from keyauthority_server.store.base import StoreUnavailable
from keyauthority_server.store.records import Row, flat_from

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
