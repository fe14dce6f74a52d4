"""Audit reads of the change log, the same for both engines: pages of events, and raw rows.

With any filter, a page of events reads at most `SCAN_ROWS` index entries, so its time is bounded
for a log of any length and any number of matches.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from keyauthority.model import ChangeType, Revision
from keyauthority.requests import EventQuery
from keyauthority_server.store.interface import StoreDamaged
from keyauthority_server.store.rows import Row, Rows
from keyauthority_server.store.sql.queries.lists import PAGE_CHARACTERS
from keyauthority_server.store.sql.row_codec import microseconds, time_from, to_json
from keyauthority_server.store.sql.scopes import is_within_scope
from keyauthority_server.store.sql.statements import (
    CHANGE_COLUMNS,
    ENTRIES_AT_ONCE,
    GET_ENTRIES,
    GET_ROTATION,
    READ_LOG,
)
from keyauthority_server.store.types import (
    CorruptEntry,
    Entry,
    EntryMac,
    Scope,
    SignedEntry,
)

SCAN_ROWS: Final = 10_000  # index entries in one call: some 20 ms of the reader's thread
_NO_BOUND: Final = 2**63 - 1  # above every revision

_KEYS_AT: Final = CHANGE_COLUMNS.index("keys")
_HASH_AT: Final = CHANGE_COLUMNS.index("hash")

# Times never decrease with revisions: an interval of time is an interval of revisions.
_FIRST_SINCE: Final = "SELECT revision FROM change WHERE time >= ? ORDER BY time, revision LIMIT 1"
_CREATED: Final = "SELECT created_revision FROM key WHERE access_key = ?"


class _Source(NamedTuple):
    """The index that yields a page's entries in order, and the bound of a call."""

    bound: str
    """The statement for the revision at an offset after another."""
    page: str
    """The statement for the revisions between two, the first excluded, with a limit."""


def _with(column: str) -> _Source:
    """Return the source of the entries with one value in a column."""
    after = f"SELECT revision FROM change WHERE {column} = ? AND revision > ?"  # noqa: S608 - a constant
    return _Source(f"{after} ORDER BY revision LIMIT 1 OFFSET ?", f"{after} AND revision <= ?")


_ALL: Final = _Source(
    "SELECT revision FROM change WHERE revision > ? ORDER BY revision LIMIT 1 OFFSET ?",
    "SELECT revision FROM change WHERE revision > ? AND revision <= ?",
)
_OF_KEY: Final = _with("access_key")
_BY_ACTOR: Final = _with("actor")
_OF_PROJECT: Final = _with("project_id")
_OF_PROJECTS: Final = _Source(
    "SELECT min((SELECT change.revision FROM change WHERE change.project_id = requested.value"
    " AND change.revision > ? ORDER BY change.revision LIMIT 1 OFFSET ?)) FROM requested",
    "SELECT revision FROM change WHERE project_id IN (SELECT value FROM requested)"
    " AND revision > ? AND revision <= ?",
)
# An expression instead of a bare column: the index by actor would defeat the bound of the scan.
_OF_ACTOR_TOO: Final = " AND actor || '' = ?"
_IN_ORDER: Final = " ORDER BY revision LIMIT ?"
_ACTOR_OF: Final = "SELECT actor FROM change WHERE revision = ?"


def list_events(
    rows: Rows, scope: Scope, query: EventQuery, after: int, limit: int
) -> tuple[list[SignedEntry], int | None]:
    """Return up to `limit` entries of the log in order of revision, and the next cursor.

    The paging fields of `query` are ignored. A project or key outside the scope has no entries. The
    entries of a key are those that name it and the one that created it. A scope of projects leaves
    out entries without a project. The cursor is a revision, and the time of a call is bounded, as
    with `list_keys`.
    """
    if not is_within_scope(rows, scope, query.project_id, query.access_key):
        return [], None
    end = _before(rows, query.end_time)
    if query.start_time is not None:
        first = _first_since(rows, query.start_time)
        if first is None:
            return [], None
        after = max(after, first - 1)
    revisions, bound = _revisions(rows, scope, query, (after, end), limit + 1)
    page: list[SignedEntry] = []
    length = 0
    for row in _entries(rows, revisions[:limit]):
        length += sum(len(text) for text in row[_KEYS_AT : _KEYS_AT + 3] if text)
        if page and length > PAGE_CHARACTERS:
            return page, page[-1].entry.revision
        page.append(_signed_entry(row))
    if len(revisions) > limit:
        return page, revisions[limit - 1]
    return page, bound


def _first_since(rows: Rows, time: datetime) -> int | None:
    found = rows.one(_FIRST_SINCE, (microseconds(time),))
    return None if found is None else int(found[0])


def _before(rows: Rows, end: datetime | None) -> int:
    """Return the last revision before a time."""
    first = None if end is None else _first_since(rows, end)
    return _NO_BOUND if first is None else first - 1


def _revisions(
    rows: Rows,
    scope: Scope,
    query: EventQuery,
    within: tuple[int, int],
    limit: int,
) -> tuple[list[int], int | None]:
    """Return the matching revisions in an interval, and the scan's end; None: the log's end."""
    after, end = within
    table, source, share = "", _ALL, SCAN_ROWS
    values: tuple[Any, ...] = ()
    actor_too = bool(query.actor)
    if query.access_key:
        source, values = _OF_KEY, (query.access_key,)
    elif query.project_id:
        source, values = _OF_PROJECT, (query.project_id,)
    elif scope is not None:
        requested = rows.values_table(sorted(scope))
        table, source, values = requested.table, _OF_PROJECTS, (requested.value,)
        share = max(SCAN_ROWS // max(len(scope), 1), 1)
    elif query.actor:
        source, values, actor_too = _BY_ACTOR, (query.actor,), False
    found = rows.one(table + source.bound, (*values, after, share - 1))
    bound = found[0] if found and found[0] is not None and found[0] < end else None
    last = end if bound is None else bound
    condition, actor = (_OF_ACTOR_TOO, (query.actor,)) if actor_too else ("", ())
    statement = table + source.page + condition + _IN_ORDER
    revisions = [row[0] for row in rows.each(statement, (*values, after, last, *actor, limit))]
    made = _made(rows, query, (after, last)) if query.access_key else None
    if made is not None and made not in revisions:
        revisions = [made, *revisions]  # the creating entry is the oldest of a key
    return revisions, bound


def _made(rows: Rows, query: EventQuery, within: tuple[int, int]) -> int | None:
    """Return the change that created the key, if in range: a rotation names only the old key."""
    found = rows.one(_CREATED, (query.access_key,))
    after, last = within
    if found is None or not after < found[0] <= last:
        return None
    if query.actor:
        row = rows.one(_ACTOR_OF, (found[0],))
        if row is None or row[0] != query.actor:
            return None
    return int(found[0])


def _entries(rows: Rows, revisions: Sequence[int]) -> Iterator[Row]:
    for first in range(0, len(revisions), ENTRIES_AT_ONCE):
        some = list(revisions[first : first + ENTRIES_AT_ONCE])
        some += some[-1:] * (ENTRIES_AT_ONCE - len(some))  # one statement, however many are left
        yield from rows.each(GET_ENTRIES, some)


def read_log(rows: Rows, after: int, limit: int) -> list[SignedEntry | CorruptEntry]:
    """Return up to `limit` rows of the log after a revision, in order; empty only at its end.

    It also reads an altered log: rows with any revision, and rows that hold no entry. The
    previous_hash of an entry is the hash in the previous row, with any revision. Each entry comes
    with the newest earlier state of the records that it changes.
    """
    found: list[SignedEntry | CorruptEntry] = []
    length = 0
    for row in rows.each(READ_LOG, (after, limit)):
        try:
            *row, earlier_keys, earlier_project = row
            texts = (*row[_KEYS_AT : _KEYS_AT + 3], earlier_keys, earlier_project)
            length += sum(len(text) for text in texts if text)
            if found and length > PAGE_CHARACTERS:
                return found
            signed = _signed_entry(row, strictly=True)
            earlier = _earlier(rows, signed.entry, earlier_keys, earlier_project)
            found.append(signed._replace(earlier=earlier))
        except (ValueError, TypeError, AttributeError, RecursionError, StoreDamaged):
            hash_ = row[_HASH_AT]
            found.append(CorruptEntry(row[0], hash_ if isinstance(hash_, bytes) else b""))
    return found


def _earlier(
    rows: Rows, entry: Entry, earlier_keys: str | None, earlier_project: str | None
) -> list[Mapping[str, object]]:
    """Return the previous logged state of each record of `entry.before`; {} without one."""
    if entry.project is not None:
        return [json.loads(earlier_project or "{}")]
    if earlier_keys is None and entry.before and entry.before[0]:
        # Its first change under its own name: the creating entry names the key that it succeeded.
        revision = entry.before[0].get("revision")
        made = rows.one(GET_ROTATION, (revision,)) if _precedes(revision, entry) else None
        earlier_keys = None if made is None else made[0]
    records = json.loads(earlier_keys or "[]")
    named = [key for key in records if key.get("access_key") == entry.access_key]
    return [*(named[:1] or [{}]), *[{} for _ in entry.keys[1:]]]


def _precedes(revision: object, entry: Entry) -> bool:
    return isinstance(revision, int) and 0 < revision < entry.revision


def _signed_entry(row: Row, *, strictly: bool = False) -> SignedEntry:
    """Return the entry of a row. `strictly`: ValueError unless encoded as `apply` writes it."""
    revision, time, change_type, project_id, access_key, actor, peer = row[:_KEYS_AT]
    keys, project, before, salt, key_version, hash_, previous_hash = row[_KEYS_AT:]
    entry = Entry(
        revision=Revision(revision),
        time=time_from(time),
        type=ChangeType(change_type),
        project_id=project_id or "",
        access_key=access_key or "",
        actor=actor,
        peer=peer,
        keys=json.loads(keys),
        project=None if project is None else json.loads(project),
        before=json.loads(before),
        salt=bytes(salt),
        previous_hash=bytes(previous_hash or b""),
    )
    if strictly:
        texts = to_json(entry.keys), entry.project and to_json(entry.project), to_json(entry.before)
        if texts != (keys, project, before) or "" in (project_id, access_key):
            raise ValueError("not as it was written")
    return SignedEntry(entry, EntryMac(bytes(hash_), key_version))
