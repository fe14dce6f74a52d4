"""The counters of rate limits and quotas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from keyauthority_server.store.migrations import Dialect, Run

_COUNTER: Final = """
    CREATE TABLE counter (
        name {text} NOT NULL PRIMARY KEY,
        start {integer} NOT NULL,
        used {integer} NOT NULL CHECK (used >= 0)
    ) {keyed_table}
    """


def migrate(run: Run, dialect: Dialect) -> None:
    """Make the table of counters."""
    run(_COUNTER.format_map(dialect._asdict()))
