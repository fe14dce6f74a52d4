"""Observations that advisories are made of: presentations of flagged keys, use of permissions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from keyauthority_server.store.migrations import Dialect, Run

# The period of a sighting is the time that began it: the end of the key, or the coming end of its
# overlap. The day of a permission is the last on which it was granted or asked for.
_STATEMENTS: Final = (
    """
    CREATE TABLE sighting (
        id {serial},
        access_key {text} NOT NULL REFERENCES key (access_key),
        cause {text} NOT NULL CHECK (cause IN ('canary', 'overlap', 'end')),
        period {integer} NOT NULL,
        count {integer} NOT NULL CHECK (count >= 0),
        first_time {integer} NOT NULL,
        last_time {integer} NOT NULL,
        last_peer {text} NOT NULL,
        UNIQUE (access_key, cause)
    ) {table}
    """,
    "CREATE INDEX sighting_by_time ON sighting (cause, last_time)",
    """
    CREATE TABLE permission_use (
        id {serial},
        access_key {text} NOT NULL REFERENCES key (access_key),
        permission {text} NOT NULL,
        day {integer} NOT NULL,
        UNIQUE (access_key, permission)
    ) {table}
    """,
    """
    CREATE TABLE permission_use_start (
        id {integer} NOT NULL PRIMARY KEY CHECK (id = 1),
        time {integer} NOT NULL
    ) {table}
    """,
)
# Without a row, permissions were observed from the first key on.
_START: Final = (
    "INSERT INTO permission_use_start (id, time)"
    " SELECT 1, time FROM log WHERE id = 1 AND time IS NOT NULL"
)


def migrate(run: Run, dialect: Dialect) -> None:
    """Create the tables, and note since when the permissions of older keys are observed."""
    words = dialect._asdict()
    for statement in _STATEMENTS:
        run(statement.format_map(words))
    run(_START)
