"""Room in the pages of counts of verifications, which are updated as long as their hour lasts."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keyauthority_server.store.migrations import Dialect, Run


def migrate(run: Run, dialect: Dialect) -> None:
    """Leave room in pages that are written from now on."""
    for statement in dialect.room_for_updates("usage"):
        run(statement)
