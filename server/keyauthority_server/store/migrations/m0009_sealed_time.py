"""The MAC of the newest time: without it, write access to the database could set the clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from keyauthority_server.store.migrations import Dialect, Run

# A time without a MAC returns to the last entry's time, which that entry's MAC covers.
_STATEMENTS: Final = (
    "ALTER TABLE log ADD COLUMN time_hash {bytes}",
    "ALTER TABLE log ADD COLUMN time_key_version {integer}",
    "UPDATE log SET time = (SELECT change.time FROM change WHERE change.revision = log.revision)",
)


def migrate(run: Run, dialect: Dialect) -> None:
    """Add the columns."""
    words = dialect._asdict()
    for statement in _STATEMENTS:
        run(statement.format_map(words))
