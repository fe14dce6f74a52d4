"""The index that finds the newest entry of a project, as `change_by_key` does that of a key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from keyauthority_server.store.migrations import Dialect, Run

# Without it, looking for a project's own entries would pass all those of its keys.
_INDEX: Final = """
    CREATE INDEX change_of_project ON change (project_id, revision) WHERE access_key IS NULL
    """


def migrate(run: Run, dialect: Dialect) -> None:
    """Make the index."""
    run(_INDEX)
