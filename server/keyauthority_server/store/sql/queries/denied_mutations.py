"""Storage of denied mutations, the same for both engines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from keyauthority_server.store.sql.row_codec import microseconds, time_from
from keyauthority_server.store.sql.statements import Rows
from keyauthority_server.store.types import DeniedMutation

REFUSED_KEPT: Final = 10_000  # the newest ones; some 2 MB

_LIST_REFUSED: Final = """
    SELECT time, times, actor, peer, method, reason, project_id, access_key
    FROM refused ORDER BY id DESC LIMIT ?
    """
_PUT_REFUSED: Final = """
    INSERT INTO refused (time, times, actor, peer, method, reason, project_id, access_key)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?)
    """
_DROP_REFUSED: Final = "DELETE FROM refused WHERE id <= (SELECT max(id) FROM refused) - ?"


def list_refused(rows: Rows, limit: int) -> list[DeniedMutation]:
    """Return the newest denied mutations; see `Store.list_refused`."""
    found = [
        DeniedMutation(time_from(row[0]), *row[1:]) for row in rows.each(_LIST_REFUSED, (limit,))
    ]
    return found[::-1]


def record_refused(rows: Rows, refused: Sequence[DeniedMutation]) -> None:
    """Store denied mutations; see `Transaction.record_refused`."""
    rows.run_many(_PUT_REFUSED, [(microseconds(one.time), *one[1:]) for one in refused])
    rows.run(_DROP_REFUSED, (REFUSED_KEPT,))
