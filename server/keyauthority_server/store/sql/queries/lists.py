"""Pages of keys and projects, the same for both engines.

A call reads at most `SCAN_ROWS` rows, so its time is bounded for any number of matches.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final, NamedTuple

from keyauthority.decision import state_of
from keyauthority.model import Key, KeyKind, KeyState, Project
from keyauthority.requests import ANY_IMPORT_SET, KeyFilter
from keyauthority_server.store.rows import Row, Rows, characters
from keyauthority_server.store.sql.integrity import stored_key, stored_project
from keyauthority_server.store.sql.queries.imports import import_sets
from keyauthority_server.store.sql.row_codec import microseconds
from keyauthority_server.store.sql.statements import (
    EVIDENCE_WIDTH,
    KEY_ROW,
    KEYS_BOUND,
    KEYS_OF_PROJECTS_BOUND,
    PROJECTS_OF_SCOPE_PAGE,
    PROJECTS_PAGE,
    Source,
    keys_page,
)
from keyauthority_server.store.types import Scope

_NO_BOUND: Final = 2**63 - 1  # above every revision

SCAN_ROWS: Final = 10_000  # rows of keys in one call: some 20 ms of the reader's thread
LABEL_ROWS: Final = 4_000  # the same if Python must compare the labels of each row
PAGE_CHARACTERS: Final = 1024 * 1024  # of records in one page: below the 4 MiB that clients take

# Avoids decoding rows that cannot be in a state; `state_of` decides.
_NOT_SUPERSEDED: Final = "(supersede_time IS NULL OR supersede_time > ?)"
_NOT_EXPIRED: Final = "(expire_time IS NULL OR expire_time > ?)"
_IN_STATE: Final = {
    KeyState.REVOKED: ("revoke_time IS NOT NULL",),
    KeyState.SUPERSEDED: ("revoke_time IS NULL", "supersede_time <= ?"),
    KeyState.EXPIRED: ("revoke_time IS NULL", _NOT_SUPERSEDED, "expire_time <= ?"),
    KeyState.DISABLED: ("revoke_time IS NULL", _NOT_SUPERSEDED, _NOT_EXPIRED, "disabled = 1"),
    KeyState.ACTIVE: ("revoke_time IS NULL", _NOT_SUPERSEDED, _NOT_EXPIRED, "disabled = 0"),
}
_LABELS_AT: Final = KEY_ROW.index("labels")
_CHARACTERS: Final = """
    SELECT coalesce(sum(length(coalesce(permissions, '') || coalesce(restrictions, '')
        || coalesce(labels, ''))), 0)
    FROM requested JOIN key ON key.access_key = requested.value
    """


class Search(NamedTuple):
    """A search, translated from the arguments of `list_keys`."""

    source: Source
    projects: tuple[str, ...]
    conditions: tuple[str, ...]
    values: tuple[Any, ...]
    key_filter: KeyFilter
    now: datetime

    @property
    def takes_all(self) -> bool:
        """True if every row matches, so that a page reads only as many rows as it returns."""
        return not self.conditions and not self.key_filter.labels

    def key_of(self, row: Row) -> Key | None:
        """Return the key of a row that SQL has selected, or None if the filter rejects it."""
        key_filter = self.key_filter
        if key_filter.labels:
            labels = json.loads(row[_LABELS_AT] or "{}")
            if any(labels.get(name) != value for name, value in key_filter.labels.items()):
                return None
        key = stored_key(row).key
        return key if key_filter.state in (None, state_of(key, self.now)) else None


def search(
    project_id: str | None, scope: Scope, key_filter: KeyFilter, now: datetime
) -> Search | None:
    """Return the search, or None if nothing can match."""
    operators = key_filter.kind is KeyKind.OPERATOR
    projects: tuple[str, ...] = ()
    if operators and (project_id is not None or scope is not None):
        return None
    if project_id is not None:
        if scope is not None and project_id not in scope:
            return None
        source, projects = Source.PROJECT, (project_id,)
    elif scope is not None:
        if not scope:
            return None
        source, projects = Source.PROJECTS, tuple(sorted(scope))
    else:
        source = Source.OPERATORS if operators else Source.ALL
    conditions = _conditions(key_filter, now)
    return Search(
        source,
        projects,
        tuple(condition for condition, _ in conditions),
        tuple(value for _, values in conditions for value in values),
        key_filter,
        now,
    )


def _conditions(key_filter: KeyFilter, now: datetime) -> list[tuple[str, tuple[Any, ...]]]:
    conditions: list[tuple[str, tuple[Any, ...]]] = []
    if key_filter.mode is not None:
        conditions.append(("mode = ?", (key_filter.mode.value,)))
    if key_filter.kind is not None:
        conditions.append(("kind = ?", (key_filter.kind.value,)))
    if key_filter.expires_before is not None:
        conditions.append(("expire_time < ?", (microseconds(key_filter.expires_before),)))
    if key_filter.used_before is not None:
        conditions.append(("last_used_time < ?", (microseconds(key_filter.used_before),)))
    if key_filter.import_set == ANY_IMPORT_SET:
        conditions.append(("import_set IS NOT NULL", ()))
    elif key_filter.import_set:
        conditions.append(("import_set = ?", (key_filter.import_set,)))
    if key_filter.never_used:
        conditions.append(("last_used_time IS NULL", ()))
    if key_filter.state is not None:
        time = microseconds(now)
        conditions += [
            (condition, (time,) * condition.count("?")) for condition in _IN_STATE[key_filter.state]
        ]
    return conditions


def _has_import_set(rows: Rows, name: str) -> bool:
    """True unless the filter names an absent import set, so that no key need be read."""
    if not name:
        return True
    names = {each.name for each in import_sets(rows)}
    return bool(names) if name == ANY_IMPORT_SET else name in names


def scan(
    rows: Rows, where: Search, after: int, most: int, needed: int
) -> tuple[Iterable[Row], int | None]:
    """Return the matching rows among some `most` keys after a revision, and the last one's.

    Each row is the revision that created a key, then its columns with their evidence. `needed` rows
    suffice if all match. The revision is None if there are no further keys.
    """
    requested = rows.values_table(where.projects)
    several = where.source is Source.PROJECTS
    head: tuple[Any, ...] = (requested.value,) if several else where.projects
    share = max(most // max(len(where.projects), 1), 1)
    if not several and where.takes_all:
        share = min(share, needed)
    statement = requested.table + KEYS_OF_PROJECTS_BOUND if several else KEYS_BOUND[where.source]
    found = rows.one(statement, (*head, after, share - 1))
    bound = found[0] if found else None
    page = keys_page(where.source, where.conditions)
    values = (*head, *where.values, after, _NO_BOUND if bound is None else bound)
    return rows.each(requested.table + page if several else page, values), bound


def list_keys(
    rows: Rows,
    project_id: str | None,
    scope: Scope,
    key_filter: KeyFilter,
    now: datetime,
    after: int,
    limit: int,
) -> tuple[list[Key], int | None]:
    """Return up to `limit` keys in order of creation, and the next cursor.

    `project_id` None means the whole scope. Operator keys, which belong to no project, are listed
    only if `key_filter.kind` is OPERATOR. The cursor is the revision that created a key: pass it as
    `after` (0 for the first page). None marks the last page. The time of a call is bounded: it may
    return fewer than `limit` keys, even zero, with a cursor.
    """
    where = search(project_id, scope, key_filter, now)
    if where is None or not _has_import_set(rows, key_filter.import_set):
        return [], None
    most = LABEL_ROWS if where.key_filter.labels else SCAN_ROWS
    found, bound = scan(rows, where, after, most, limit + 1)
    keys: list[Key] = []
    cursor, length = after, 0
    for created_revision, *row in found:
        key = where.key_of(row)
        if key is None:
            continue
        length += characters(row[:-EVIDENCE_WIDTH])
        if len(keys) == limit or (keys and length > PAGE_CHARACTERS):
            return keys, cursor
        keys.append(key)
        cursor = created_revision
    return keys, bound


def characters_of_lists(rows: Rows, access_keys: Iterable[str]) -> int:
    """Return the length of the permissions, restrictions and labels of keys together."""
    requested = rows.values_table(access_keys)
    (length,) = rows.one(requested.table + _CHARACTERS, (requested.value,)) or (0,)
    return int(length)


def list_projects(
    rows: Rows, scope: Scope, after: int, limit: int
) -> tuple[list[Project], int | None]:
    """Return up to `limit` projects in order of creation, and the next cursor.

    Fewer, with a cursor, if their labels are long.
    """
    if scope is None:
        found = rows.each(PROJECTS_PAGE, (after, limit + 1))
    else:
        requested = rows.values_table(sorted(scope))
        statement = requested.table + PROJECTS_OF_SCOPE_PAGE
        found = rows.each(statement, (requested.value, after, limit + 1))
    page: list[Project] = []
    cursor, length = after, 0
    for created_revision, *row in found:
        length += characters(row[:-EVIDENCE_WIDTH])
        if len(page) == limit or (page and length > PAGE_CHARACTERS):
            return page, cursor
        page.append(stored_project(row))
        cursor = created_revision
    return page, None
