"""Pages of the change log for its followers, the same for both engines."""

from __future__ import annotations

from typing import Final

from keyauthority.model import Change, Revision
from keyauthority_server.store.interface import StoreError
from keyauthority_server.store.rows import Rows
from keyauthority_server.store.sql.queries.lists import PAGE_CHARACTERS
from keyauthority_server.store.sql.row_codec import change_from
from keyauthority_server.store.sql.statements import TAIL
from keyauthority_server.store.types import ChangePage

_KEYS: Final = 3  # indexes in a change's row
_PROJECT: Final = 4


def read_changes(
    rows: Rows, after: int, limit: int, as_of: float, statement: str = TAIL
) -> ChangePage:
    """Return changes after a revision, and the head; see `Store.read_changes`.

    `statement` has the columns and parameters of `TAIL`.
    """
    found: list[Change] = []
    head, length = None, 0
    for newest, revision, *row in rows.each(statement, (after, limit)):
        head = Revision(newest)
        if revision is None:
            break
        length += len(row[_KEYS]) + len(row[_PROJECT] or "")
        if found and length > PAGE_CHARACTERS:
            break
        if revision != after + len(found) + 1:
            raise StoreError("a change is missing from the log")
        found.append(change_from(revision, row))
    if head is None:
        raise StoreError("the counter row is missing")
    return ChangePage(found, head, as_of)
