"""Projects, keys, the log of changes with its counter row, and the check values of key files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from uuid import uuid4

if TYPE_CHECKING:
    from keyauthority_server.store.migrations import Dialect, Run

_TABLES: Final = (
    """
    CREATE TABLE log (
        id {integer} NOT NULL PRIMARY KEY CHECK (id = 1),
        log_id TEXT NOT NULL,
        revision {integer} NOT NULL CHECK (revision >= 0),
        hash {bytes} NOT NULL,
        time {integer},
        closed {integer} NOT NULL CHECK (closed IN (0, 1))
    ) {table}
    """,
    """
    CREATE TABLE project (
        project_id TEXT NOT NULL PRIMARY KEY,
        revision {integer} NOT NULL,
        created_revision {integer} NOT NULL UNIQUE,
        display_name TEXT,
        labels TEXT,
        suspended {integer} NOT NULL CHECK (suspended IN (0, 1)),
        rate_limit_limit {integer},
        rate_limit_period {integer},
        create_time {integer} NOT NULL,
        update_time {integer} NOT NULL,
        CHECK ((rate_limit_limit IS NULL) = (rate_limit_period IS NULL))
    ) {keyed_table}
    """,
    # What Verify reads each time comes first: the engine need not walk the rest of the row for it.
    """
    CREATE TABLE key (
        access_key TEXT NOT NULL PRIMARY KEY,
        revision {integer} NOT NULL,
        last_used_time {integer},
        digest {bytes} NOT NULL,
        pepper_version {integer} NOT NULL,
        project_id TEXT REFERENCES project (project_id),
        created_revision {integer} NOT NULL UNIQUE,
        lineage TEXT NOT NULL REFERENCES key (access_key),
        mode TEXT NOT NULL CHECK (mode IN ('test', 'live')),
        kind TEXT NOT NULL CHECK (kind IN ('secret', 'restricted', 'publishable', 'operator')),
        purpose TEXT,
        permissions TEXT,
        restrictions TEXT,
        rate_limit_limit {integer},
        rate_limit_period {integer},
        quota_limit {integer},
        quota_period TEXT,
        labels TEXT,
        disabled {integer} NOT NULL CHECK (disabled IN (0, 1)),
        create_time {integer} NOT NULL,
        update_time {integer} NOT NULL,
        expire_time {integer},
        supersede_time {integer},
        revoke_time {integer},
        revoke_reason TEXT,
        revoke_note TEXT,
        created_by TEXT,
        created_from TEXT,
        predecessor_access_key TEXT,
        successor_access_key TEXT,
        publishable_key TEXT,
        operator_projects TEXT,
        CHECK ((kind = 'operator') = (project_id IS NULL)),
        CHECK ((rate_limit_limit IS NULL) = (rate_limit_period IS NULL)),
        CHECK ((quota_limit IS NULL) = (quota_period IS NULL))
    ) {keyed_table}
    """,
    "CREATE INDEX key_by_project ON key (project_id, created_revision)",
    """
    CREATE TABLE change (
        revision {integer} NOT NULL PRIMARY KEY,
        time {integer} NOT NULL,
        type TEXT NOT NULL,
        project_id TEXT,
        access_key TEXT,
        actor TEXT NOT NULL,
        peer TEXT NOT NULL,
        keys TEXT NOT NULL,
        project TEXT,
        before TEXT NOT NULL,
        salt {bytes} NOT NULL,
        key_version {integer} NOT NULL,
        hash {bytes} NOT NULL
    ) {table}
    """,
    "CREATE INDEX change_by_project ON change (project_id, revision)",
    "CREATE INDEX change_by_key ON change (access_key, revision)",
    "CREATE INDEX change_by_time ON change (time, revision)",
    """
    CREATE TABLE key_check (
        name TEXT NOT NULL PRIMARY KEY,
        check_value {bytes} NOT NULL
    ) {keyed_table}
    """,
)
_FIRST_LOG: Final = (
    "INSERT INTO log (id, log_id, revision, hash, time, closed) VALUES (1, ?, 0, ?, NULL, 0)"
)


def migrate(run: Run, dialect: Dialect) -> None:
    """Make the tables, and an empty log with an id of its own."""
    words = {
        "integer": dialect.integer,
        "bytes": dialect.bytes,
        "table": dialect.table,
        "keyed_table": dialect.keyed_table,
    }
    for statement in _TABLES:
        run(statement.format_map(words))
    for statement in dialect.append_only("change"):
        run(statement)
    run(_FIRST_LOG, (str(uuid4()), b""))
