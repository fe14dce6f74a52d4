"""The outcomes of requests that carry a request_id."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from keyauthority_server.store.migrations import Dialect, Run

_REQUEST: Final = """
    CREATE TABLE request (
        name {bytes} NOT NULL PRIMARY KEY,
        content {bytes} NOT NULL,
        revision {integer} NOT NULL REFERENCES change (revision),
        access_key {text} NOT NULL,
        sealed {bytes},
        pepper_version {integer} NOT NULL,
        end_time {integer} NOT NULL
    ) {keyed_table}
    """
_INDEXES: Final = (
    "CREATE INDEX request_by_end_time ON request (end_time)",
    "CREATE INDEX request_by_access_key ON request (access_key)",
)


def migrate(run: Run, dialect: Dialect) -> None:
    """Make the table of requests."""
    words = dialect._asdict()
    run(_REQUEST.format_map(words))
    for statement in _INDEXES:
        run(statement)
