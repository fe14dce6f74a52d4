"""Whether counters may be spent from: not once a copy has taken them over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from keyauthority_server.store.migrations import Dialect, Run

_TABLE: Final = """
    CREATE TABLE counter_state (
        id {integer} NOT NULL PRIMARY KEY CHECK (id = 1),
        closed {integer} NOT NULL CHECK (closed IN (0, 1))
    ) {table}
    """
_FIRST: Final = "INSERT INTO counter_state (id, closed) VALUES (1, 0)"


def migrate(run: Run, dialect: Dialect) -> None:
    """Make the table, with open counters."""
    run(_TABLE.format_map(dialect._asdict()))
    run(_FIRST)
