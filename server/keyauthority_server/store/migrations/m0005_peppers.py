"""An index of the keys that need a version of the pepper, for counting and listing them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from keyauthority_server.store.migrations import Dialect, Run

# Covers every column that counting reads, hence revoke_time; supersede_time excludes keys by time.
_INDEX: Final = """
    CREATE INDEX key_by_pepper ON key (pepper_version, supersede_time, revoke_time)
    WHERE revoke_time IS NULL
    """


def migrate(run: Run, dialect: Dialect) -> None:
    """Make the index."""
    run(_INDEX)
