"""The index of digests of imported keys that name their key: of two parts, found by the first.

Keys that were imported before have digests of one part, and are found no longer: importing them
again makes new ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from keyauthority_server.store.migrations import Dialect, Run

_STATEMENTS: Final = (
    "DROP INDEX key_by_digest",
    """
    CREATE INDEX key_by_digest ON key (substr(digest, 1, 32))
    WHERE import_set IS NOT NULL AND length(digest) = 64
    """,
)


def migrate(run: Run, dialect: Dialect) -> None:
    """Make the index anew."""
    for statement in _STATEMENTS:
        run(statement)
