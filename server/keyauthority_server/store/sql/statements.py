"""The SQL statements shared by both engines, and the layout of their rows.

Parameters are written `?`; an engine whose driver uses another form translates each statement once.
No statement contains a caller's values: composed statements consist of constants of this module.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Final

from keyauthority_server.store.sql.row_codec import KEY_COLUMNS, PROJECT_COLUMNS

BOOKKEEPING_COLUMNS: Final = ("last_used_time", "digest", "pepper_version", "lineage")
"""The columns of a key's row outside its record; `KEY_ROW` starts with them."""


def _of(table: str, columns: Iterable[str]) -> str:
    return ", ".join(table + "." + column for column in columns)


def _places(columns: Sequence[str]) -> str:
    return ", ".join("?" * len(columns))


def _overwrite(columns: Iterable[str]) -> str:
    return ", ".join(column + " = excluded." + column for column in columns)


KEY_ROW: Final = BOOKKEEPING_COLUMNS + KEY_COLUMNS
RECORD_AT: Final = len(BOOKKEEPING_COLUMNS)

# The log's evidence for the record in a row: the newest later change of it, which must not exist,
# and the entry that the row names. Each is one lookup in an index.
_KEY_EVIDENCE: Final = (
    "(SELECT max(later.revision) FROM change AS later"
    " WHERE later.access_key = {0}.access_key AND later.revision > {0}.revision),"
    " (SELECT written.keys FROM change AS written WHERE written.revision = {0}.revision)"
)
_PROJECT_EVIDENCE: Final = (
    "(SELECT max(later.revision) FROM change AS later WHERE later.project_id = {0}.project_id"
    " AND later.access_key IS NULL AND later.revision > {0}.revision),"
    " (SELECT written.project FROM change AS written WHERE written.revision = {0}.revision)"
)
EVIDENCE_WIDTH: Final = 2
HELD_WIDTH: Final = len(KEY_ROW) + EVIDENCE_WIDTH
PROJECT_WIDTH: Final = len(PROJECT_COLUMNS) + EVIDENCE_WIDTH


def _key_row(table: str) -> str:
    """Return the columns of a key with its evidence, for `integrity.stored_key`."""
    return f"{_of(table, KEY_ROW)}, {_KEY_EVIDENCE.format(table)}"


def _project_row(table: str) -> str:
    """Return the columns of a project with its evidence, for `integrity.stored_project`."""
    return f"{_of(table, PROJECT_COLUMNS)}, {_PROJECT_EVIDENCE.format(table)}"


# One state: the head of the log, a key with its project, and an operator's key.
READ_SNAPSHOT: Final = (
    f"SELECT log.revision, {_key_row('stored')}, {_project_row('project')}, {_key_row('operator')}"
    " FROM log"
    " LEFT JOIN key AS stored ON stored.access_key = ?"
    " LEFT JOIN project ON project.project_id = stored.project_id"
    " LEFT JOIN key AS operator ON operator.access_key = ?"
    " WHERE log.id = 1"
)
# The engine prefixes a table `requested` with rows of (number, value).
_FROM_REQUESTED: Final = (
    " FROM requested CROSS JOIN log"
    " LEFT JOIN key AS stored ON stored.access_key = requested.value"
    " LEFT JOIN project ON project.project_id = stored.project_id"
    " WHERE log.id = 1 ORDER BY requested.number"
)
READ_SNAPSHOTS: Final = (
    f"SELECT log.revision, {_key_row('stored')}, {_project_row('project')}{_FROM_REQUESTED}"
)

OUTLINE: Final = (
    "SELECT project_id, mode, kind, revoke_time, supersede_time, digest, pepper_version"
    " FROM key WHERE access_key = ?"
)
HEAD: Final = "SELECT revision FROM log WHERE id = 1"
LOG: Final = (
    "SELECT log_id, revision, hash, time, closed, time_hash, time_key_version FROM log WHERE id = 1"
)
ADVANCE_LOG: Final = (
    "UPDATE log SET revision = ?, hash = ?, time = ?, time_hash = ?, time_key_version = ?"
    " WHERE id = 1"
)

GET_KEY: Final = f"SELECT {_key_row('key')} FROM key WHERE access_key = ?"
GET_PROJECT: Final = f"SELECT {_project_row('project')} FROM project WHERE project_id = ?"
# The same for the names in the table `requested`.
GET_KEYS: Final = (
    f"SELECT {_key_row('key')} FROM requested JOIN key ON key.access_key = requested.value"
)
GET_PROJECTS: Final = (
    f"SELECT {_project_row('project')} FROM requested"
    " JOIN project ON project.project_id = requested.value"
)

# Not overwritten: the name of the record, its creation, and last_used_time, bookkeeping that may be
# newer than the caller's state.
_MADE_ONCE: Final = frozenset(
    {"access_key", "project_id", "create_time", "lineage", "created_revision"}
)

PUT_KEY_COLUMNS: Final = (
    *KEY_COLUMNS,
    *("digest", "pepper_version", "lineage", "created_revision"),
)
PUT_KEY: Final = (
    f"INSERT INTO key ({', '.join(PUT_KEY_COLUMNS)})"
    f" VALUES ({_places(PUT_KEY_COLUMNS)})"
    " ON CONFLICT (access_key) DO UPDATE SET "
    + _overwrite(column for column in PUT_KEY_COLUMNS if column not in _MADE_ONCE)
)

PUT_PROJECT_COLUMNS: Final = (*PROJECT_COLUMNS, "created_revision")
PUT_PROJECT: Final = (
    f"INSERT INTO project ({', '.join(PUT_PROJECT_COLUMNS)})"
    f" VALUES ({_places(PUT_PROJECT_COLUMNS)})"
    " ON CONFLICT (project_id) DO UPDATE SET "
    + _overwrite(column for column in PROJECT_COLUMNS if column not in _MADE_ONCE)
)

CHANGE_COLUMNS: Final = (
    "revision",
    "time",
    "type",
    "project_id",
    "access_key",
    "actor",
    "peer",
    "keys",
    "project",
    "before",
    "salt",
    "key_version",
    "hash",
)
APPEND_CHANGE: Final = (
    f"INSERT INTO change ({', '.join(CHANGE_COLUMNS)}) VALUES ({_places(CHANGE_COLUMNS)})"
)


class Source(Enum):
    """The keys to list: an index yields each source in order of creation."""

    ALL = "kind <> 'operator'"
    OPERATORS = "project_id IS NULL"
    PROJECT = "project_id = ?"
    PROJECTS = "project_id IN (SELECT value FROM requested)"


_IN_ORDER: Final = " ORDER BY created_revision"
_KEYS_PAGE: Final = f"SELECT created_revision, {_key_row('key')} FROM key WHERE "
_WITHIN: Final = " AND created_revision > ? AND created_revision <= ?"


def keys_page(source: Source, conditions: Iterable[str]) -> str:
    """Return the statement for a page of keys; `conditions` must be constants of this package.

    Parameters: the value of the source, those of the conditions, and the bounds, the first
    excluded.
    """
    return _KEYS_PAGE + " AND ".join((source.value, *conditions)) + _WITHIN + _IN_ORDER


KEYS_BOUND: Final = {
    source: "SELECT created_revision FROM key WHERE "
    + where
    + "created_revision > ? ORDER BY created_revision LIMIT 1 OFFSET ?"
    for source, where in (
        (Source.ALL, ""),
        (Source.OPERATORS, "project_id IS NULL AND "),
        (Source.PROJECT, "project_id = ? AND "),
    )
}
"""The bound of a page: the revision of the row at an offset after another."""

KEYS_OF_PROJECTS_BOUND: Final = (
    "SELECT min((SELECT key.created_revision FROM key WHERE key.project_id = requested.value"
    " AND key.created_revision > ? ORDER BY key.created_revision LIMIT 1 OFFSET ?)) FROM requested"
)
"""The same for several projects: each contributes at most its share of rows."""

_PROJECTS_PAGE: Final = (
    f"SELECT created_revision, {_project_row('project')} FROM project WHERE created_revision > ?"
)
PROJECTS_PAGE: Final = _PROJECTS_PAGE + _IN_ORDER + " LIMIT ?"
PROJECTS_OF_SCOPE_PAGE: Final = (
    _PROJECTS_PAGE + " AND project_id IN (SELECT value FROM requested)" + _IN_ORDER + " LIMIT ?"
)

ENTRIES_AT_ONCE: Final = 50  # entries fetched together, each of some 600 KB at most
_ENTRY: Final = (
    f"SELECT {_of('change', CHANGE_COLUMNS)}, (SELECT former.hash FROM change AS former"
    " WHERE former.revision < change.revision ORDER BY former.revision DESC LIMIT 1) FROM change"
)
GET_ENTRIES: Final = (
    f"{_ENTRY} WHERE revision IN ({', '.join('?' * ENTRIES_AT_ONCE)}) ORDER BY revision"
)
# Each entry with the newest earlier one that names the same key, or belongs to the same project.
READ_LOG: Final = (
    f"{_ENTRY.removesuffix(' FROM change')}, (SELECT earlier.keys FROM change AS earlier"
    " WHERE earlier.access_key = change.access_key AND earlier.revision < change.revision"
    " ORDER BY earlier.revision DESC LIMIT 1),"
    " (SELECT earlier.project FROM change AS earlier WHERE change.access_key IS NULL"
    " AND earlier.project_id = change.project_id AND earlier.access_key IS NULL"
    " AND earlier.revision < change.revision ORDER BY earlier.revision DESC LIMIT 1)"
    " FROM change WHERE revision > ? ORDER BY revision LIMIT ?"
)
GET_ROTATION: Final = "SELECT keys FROM change WHERE revision = ? AND type = 'key_rotated'"

# For comparing records with the log: each with its newest change and the one that created it.
KEYS_MADE: Final = (
    f"SELECT {_of('key', KEY_COLUMNS)}, key.lineage, key.created_revision, parent.lineage,"
    " (SELECT max(last.revision) FROM change AS last WHERE last.access_key = key.access_key),"
    " newest.keys, made.type, made.keys FROM key"
    " LEFT JOIN key AS parent ON parent.access_key = key.predecessor_access_key"
    " LEFT JOIN change AS newest ON newest.revision = key.revision"
    " LEFT JOIN change AS made ON made.revision = key.created_revision"
    " WHERE key.created_revision > ? AND key.created_revision <= ?"
)
PROJECTS_MADE: Final = (
    f"SELECT {_of('project', PROJECT_COLUMNS)}, project.created_revision,"
    " (SELECT max(last.revision) FROM change AS last"
    " WHERE last.project_id = project.project_id AND last.access_key IS NULL),"
    " newest.project, made.type, made.project_id FROM project"
    " LEFT JOIN change AS newest ON newest.revision = project.revision"
    " LEFT JOIN change AS made ON made.revision = project.created_revision"
    " WHERE project.created_revision > ? AND project.created_revision <= ?"
)
KEYS_MISSING: Final = (
    "SELECT revision, keys FROM change WHERE revision > ? AND revision <= ?"
    " AND type IN ('key_created', 'key_rotated')"
    " AND NOT EXISTS (SELECT 1 FROM key WHERE key.created_revision = change.revision)"
)
PROJECTS_MISSING: Final = (
    "SELECT revision, project_id FROM change WHERE revision > ? AND revision <= ?"
    " AND type = 'project_created'"
    " AND NOT EXISTS (SELECT 1 FROM project WHERE project.created_revision = change.revision)"
)
NEWEST_MADE: Final = (
    "SELECT (SELECT max(revision) FROM change), (SELECT max(created_revision) FROM key),"
    " (SELECT max(created_revision) FROM project)"
)

KEY_CHECKS: Final = "SELECT name, check_value FROM key_check ORDER BY name"
PUT_KEY_CHECK: Final = (
    "INSERT INTO key_check (name, check_value) VALUES (?, ?) ON CONFLICT (name) DO NOTHING"
)

IMPORT_SET_COLUMNS: Final = (
    "name",
    "scheme",
    "token_part",
    "token_prefix",
    "token_length_min",
    "token_length_max",
)
IMPORT_SETS: Final = f"SELECT {', '.join(IMPORT_SET_COLUMNS)} FROM import_set ORDER BY name"
ADD_IMPORT_SET: Final = (
    f"INSERT INTO import_set ({', '.join(IMPORT_SET_COLUMNS)})"
    f" VALUES ({_places(IMPORT_SET_COLUMNS)})"
)
FOUND_AT_ONCE: Final = 50  # keys looked up by one statement, unless there is only one
_FOUND_BY: Final = "substr(digest, 1, 32)"  # the first part of the digest of an imported key
FIND_IMPORTED: Final = {
    number: (
        f"SELECT {_FOUND_BY}, access_key, project_id, kind, mode, import_set FROM key"
        " WHERE import_set IS NOT NULL AND length(digest) = 64"
        f" AND {_FOUND_BY} IN ({', '.join('?' * number)})"
    )
    for number in (1, FOUND_AT_ONCE)
}

NAMES_CHANGED: Final = (
    "SELECT access_key, project_id FROM change WHERE revision > ? ORDER BY revision LIMIT ?"
)
GET_CHANGE: Final = "SELECT time, type, project_id, keys, project FROM change WHERE revision = ?"
TAIL: Final = (
    # One statement, one state: changes after a revision, and the head; without changes one row.
    "SELECT log.revision, change.revision, change.time, change.type, change.project_id,"
    " change.keys, change.project"
    " FROM log LEFT JOIN change ON change.revision > ?"
    " WHERE log.id = 1 ORDER BY change.revision LIMIT ?"
)

REQUEST_COLUMNS: Final = (
    "name",
    "content",
    "revision",
    "access_key",
    "sealed",
    "pepper_version",
    "end_time",
)
GET_REQUEST: Final = (
    f"SELECT {', '.join(REQUEST_COLUMNS)} FROM request WHERE name = ? AND end_time > ?"
)
PUT_REQUEST: Final = (
    f"INSERT INTO request ({', '.join(REQUEST_COLUMNS)}) VALUES ({_places(REQUEST_COLUMNS)})"
    " ON CONFLICT (name) DO UPDATE SET "  # replaces an expired record that is not deleted yet
    + _overwrite(column for column in REQUEST_COLUMNS if column != "name")
)
REQUEST_ENDED: Final = "SELECT 1 FROM request WHERE end_time <= ? LIMIT 1"
DROP_REQUESTS: Final = (  # run only if needed: on SQLite it costs 60 µs
    "DELETE FROM request WHERE name IN"
    " (SELECT name FROM request WHERE end_time <= ? ORDER BY end_time LIMIT ?)"
)
DROP_SEALED: Final = "UPDATE request SET sealed = NULL WHERE access_key = ?"
