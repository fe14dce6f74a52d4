"""The number of rows that a page of keys may read."""

from __future__ import annotations

from datetime import UTC, datetime
from unittest.mock import Mock

import pytest

from keyauthority.model import KeyState
from keyauthority.requests import KeyFilter
from keyauthority_server.store.sql.queries.lists import (
    LABEL_ROWS,
    SCAN_ROWS,
    list_keys,
)

LIMIT = 100


@pytest.mark.parametrize(
    ("key_filter", "rows_read"),
    [
        (KeyFilter(), LIMIT + 1),
        (KeyFilter(never_used=True), SCAN_ROWS),
        (KeyFilter(state=KeyState.ACTIVE), SCAN_ROWS),
        (KeyFilter(labels={"team": "shop"}), LABEL_ROWS),
    ],
    ids=["all", "never used", "active", "labels"],
)
def test_page_reads_no_more_rows_than_needed(key_filter: KeyFilter, rows_read: int) -> None:
    """One more than the page if every row matches, else the bound of a call."""
    rows = Mock()
    rows.one.return_value = None
    rows.each.return_value = []
    assert ([], None) == list_keys(rows, "project", None, key_filter, datetime.now(UTC), 0, LIMIT)
    _, (*_, offset) = rows.one.call_args.args
    assert rows_read - 1 == offset
