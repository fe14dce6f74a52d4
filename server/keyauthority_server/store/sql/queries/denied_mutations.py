"""Storage of denied mutations, the same for both engines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from keyauthority_server.store.rows import Rows, SetStatement
from keyauthority_server.store.sql.row_codec import microseconds, time_from
from keyauthority_server.store.types import DeniedMutation

DENIALS_KEPT: Final = 10_000  # the newest ones; some 2 MB

_LIST_DENIALS: Final = """
    SELECT time, times, actor, peer, method, reason, project_id, access_key
    FROM refused ORDER BY id DESC LIMIT ?
    """
_PUT_DENIAL: Final = SetStatement(
    """
    INSERT INTO refused (time, times, actor, peer, method, reason, project_id, access_key)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?)
    """,
    ("BIGINT", "BIGINT", *["TEXT"] * 6),
)
_DROP_DENIALS: Final = "DELETE FROM refused WHERE id <= (SELECT max(id) FROM refused) - ?"


def list_denials(rows: Rows, limit: int) -> list[DeniedMutation]:
    """Return the newest denied mutations, up to `limit`, oldest first."""
    found = [
        DeniedMutation(time_from(row[0]), *row[1:]) for row in rows.each(_LIST_DENIALS, (limit,))
    ]
    return found[::-1]


def record_denials(rows: Rows, denied: Sequence[DeniedMutation]) -> None:
    """Store denied mutations; only the newest 10,000 are kept."""
    rows.run_set(_PUT_DENIAL, [(microseconds(mutation.time), *mutation[1:]) for mutation in denied])
    rows.run(_DROP_DENIALS, (DENIALS_KEPT,))
