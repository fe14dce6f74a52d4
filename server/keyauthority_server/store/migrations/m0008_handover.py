"""The identity of a database, and the only target to which a copy hands the authority over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from uuid import uuid4

if TYPE_CHECKING:
    from keyauthority_server.store.migrations import Dialect, Run

_TABLE: Final = """
    CREATE TABLE handover (
        id {integer} NOT NULL PRIMARY KEY CHECK (id = 1),
        database_id {text} NOT NULL,
        target_id {text},
        target {text},
        completed {integer} NOT NULL CHECK (completed IN (0, 1))
    ) {table}
    """
# A source that was closed before this table existed names no target: its copy may be in use.
_FIRST: Final = (
    "INSERT INTO handover (id, database_id, target_id, target, completed) VALUES (1, ?, NULL, NULL,"
    " coalesce((SELECT CASE WHEN closed = 1 AND length(hash) > 0 THEN 1 ELSE 0 END FROM log), 0))"
)


def migrate(run: Run, dialect: Dialect) -> None:
    """Create the table, with a unique id of this database."""
    run(_TABLE.format_map(dialect._asdict()))
    run(_FIRST, (str(uuid4()),))
