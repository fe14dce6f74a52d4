"""A row per server process, written to prove that the database still commits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from keyauthority_server.store.migrations import Dialect, Run

# `time` is the database's, in microseconds since the Unix epoch: for cleaning up, and nothing else.
# No index beside the key's: a row that is overwritten several times a second stays in its page.
_TABLE: Final = """
    CREATE TABLE heartbeat (
        server {text} NOT NULL PRIMARY KEY,
        beat {integer} NOT NULL,
        time {integer} NOT NULL
    ) {keyed_table}
    """


def migrate(run: Run, dialect: Dialect) -> None:
    """Make the table; an engine whose reads prove themselves leaves it empty."""
    run(_TABLE.format_map(dialect._asdict()))
