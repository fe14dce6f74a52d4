"""Import sets, and the keys that came with them: found by their digests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from keyauthority_server.store.migrations import Dialect, Run

# Only imported keys are found by digest: a token of this authority names its key.
_STATEMENTS: Final = (
    """
    CREATE TABLE import_set (
        name {text} NOT NULL PRIMARY KEY,
        scheme {text} NOT NULL,
        token_part {text} NOT NULL,
        token_prefix {text} NOT NULL,
        token_length_min {integer} NOT NULL,
        token_length_max {integer} NOT NULL
    ) {keyed_table}
    """,
    "ALTER TABLE key ADD COLUMN import_set {text}",
    "ALTER TABLE key ADD COLUMN foreign_id {text}",
    "CREATE INDEX key_by_digest ON key (digest) WHERE import_set IS NOT NULL",
)


def migrate(run: Run, dialect: Dialect) -> None:
    """Create the table, the columns and the index."""
    words = dialect._asdict()
    for statement in _STATEMENTS:
        run(statement.format_map(words))
