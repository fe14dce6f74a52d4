"""An index of the keys that need a version of the pepper, for counting and listing them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from keyauthority_server.store.migrations import Dialect, Run

# All that counting reads is in it, revoke_time only for that; a superseded key leaves by time.
_INDEX: Final = """
    CREATE INDEX key_by_pepper ON key (pepper_version, supersede_time, revoke_time)
    WHERE revoke_time IS NULL
    """


def migrate(run: Run, dialect: Dialect) -> None:
    """Make the index."""
    run(_INDEX)
