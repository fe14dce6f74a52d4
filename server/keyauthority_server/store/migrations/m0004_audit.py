"""Denied mutations, and an index of the change log by actor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from keyauthority_server.store.migrations import Dialect, Run

_REFUSED: Final = """
    CREATE TABLE refused (
        id {serial},
        time {integer} NOT NULL,
        times {integer} NOT NULL,
        actor {text} NOT NULL,
        peer {text} NOT NULL,
        method {text} NOT NULL,
        reason {text} NOT NULL,
        project_id {text} NOT NULL,
        access_key {text} NOT NULL
    ) {table}
    """
_BY_ACTOR: Final = "CREATE INDEX change_by_actor ON change (actor, revision)"


def migrate(run: Run, dialect: Dialect) -> None:
    """Create the table of denied mutations, and the index that finds an actor's changes."""
    words = dialect._asdict()
    run(_REFUSED.format_map(words))
    run(_BY_ACTOR)
