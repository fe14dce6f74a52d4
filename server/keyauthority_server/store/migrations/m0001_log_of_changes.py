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
        log_id {text} NOT NULL,
        revision {integer} NOT NULL CHECK (revision >= 0),
        hash {bytes} NOT NULL,
        time {integer},
        closed {integer} NOT NULL CHECK (closed IN (0, 1))
    ) {table}
    """,
    """
    CREATE TABLE project (
        project_id {text} NOT NULL PRIMARY KEY,
        revision {integer} NOT NULL,
        created_revision {integer} NOT NULL UNIQUE,
        display_name {text},
        labels {text},
        suspended {integer} NOT NULL CHECK (suspended IN (0, 1)),
        rate_limit_limit {integer},
        rate_limit_period {integer},
        create_time {integer} NOT NULL,
        update_time {integer} NOT NULL,
        CHECK ((rate_limit_limit IS NULL) = (rate_limit_period IS NULL))
    ) {keyed_table}
    """,
    # The columns of every Verify come first, so the engine need not walk the rest of the row.
    """
    CREATE TABLE key (
        access_key {text} NOT NULL PRIMARY KEY,
        revision {integer} NOT NULL,
        last_used_time {integer},
        digest {bytes} NOT NULL,
        pepper_version {integer} NOT NULL,
        project_id {text} REFERENCES project (project_id),
        created_revision {integer} NOT NULL UNIQUE,
        lineage {text} NOT NULL REFERENCES key (access_key),
        mode {text} NOT NULL CHECK (mode IN ('test', 'live')),
        kind {text} NOT NULL CHECK (kind IN ('secret', 'restricted', 'publishable', 'operator')),
        purpose {text},
        permissions {text},
        restrictions {text},
        rate_limit_limit {integer},
        rate_limit_period {integer},
        quota_limit {integer},
        quota_period {text},
        labels {text},
        disabled {integer} NOT NULL CHECK (disabled IN (0, 1)),
        create_time {integer} NOT NULL,
        update_time {integer} NOT NULL,
        expire_time {integer},
        supersede_time {integer},
        revoke_time {integer},
        revoke_reason {text},
        revoke_note {text},
        created_by {text},
        created_from {text},
        predecessor_access_key {text},
        successor_access_key {text},
        publishable_key {text},
        operator_projects {text},
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
        type {text} NOT NULL,
        project_id {text},
        access_key {text},
        actor {text} NOT NULL,
        peer {text} NOT NULL,
        keys {text} NOT NULL,
        project {text},
        before {text} NOT NULL,
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
        name {text} NOT NULL PRIMARY KEY,
        check_value {bytes} NOT NULL
    ) {keyed_table}
    """,
)
_FIRST_LOG: Final = (
    "INSERT INTO log (id, log_id, revision, hash, time, closed) VALUES (1, ?, 0, ?, NULL, 0)"
)


def migrate(run: Run, dialect: Dialect) -> None:
    """Make the tables, and an empty log with an id of its own."""
    words = dialect._asdict()
    for statement in _TABLES:
        run(statement.format_map(words))
    for statement in dialect.append_only("change"):
        run(statement)
    run(_FIRST_LOG, (str(uuid4()), b""))
