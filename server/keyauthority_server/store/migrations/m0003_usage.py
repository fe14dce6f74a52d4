"""Counts of verifications by hour and by day, and the batches counted recently."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from keyauthority_server.store.migrations import Dialect, Run

# The day's rows are kept beside the hours': a page of either is read in its order from an index.
# A page token names a row by `id`; `verdict` is its number in the protos, which is the
# contract's order.
_TABLES: Final = (
    """
    CREATE TABLE usage (
        id {serial},
        granularity {text} NOT NULL CHECK (granularity IN ('hour', 'day')),
        bucket_time {integer} NOT NULL,
        access_key {text} NOT NULL REFERENCES key (access_key),
        verdict {integer} NOT NULL,
        project_id {text} NOT NULL REFERENCES project (project_id),
        count {integer} NOT NULL CHECK (count >= 0),
        cost {integer} NOT NULL CHECK (cost >= 0),
        last_used_time {integer} NOT NULL,
        UNIQUE (granularity, bucket_time, access_key, verdict)
    ) {table}
    """,
    """
    CREATE INDEX usage_by_project
    ON usage (project_id, granularity, bucket_time, access_key, verdict)
    """,
    "CREATE INDEX usage_by_key ON usage (access_key, granularity, bucket_time, verdict)",
    """
    CREATE TABLE usage_batch (
        batch_id {text} NOT NULL PRIMARY KEY,
        end_time {integer} NOT NULL
    ) {keyed_table}
    """,
    "CREATE INDEX usage_batch_by_end_time ON usage_batch (end_time)",
)


def migrate(run: Run, dialect: Dialect) -> None:
    """Make the tables of usage."""
    words = dialect._asdict()
    for statement in _TABLES:
        run(statement.format_map(words))
