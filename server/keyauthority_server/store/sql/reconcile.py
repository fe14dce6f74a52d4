"""Compares all keys and projects with the change log, the same for both engines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from keyauthority.model import ChangeType
from keyauthority_server.store.rows import Row, Rows
from keyauthority_server.store.sql.row_codec import KEY_COLUMNS, PROJECT_COLUMNS, flat_from
from keyauthority_server.store.sql.statements import (
    KEYS_MADE,
    KEYS_MISSING,
    NEWEST_MADE,
    PROJECTS_MADE,
    PROJECTS_MISSING,
)
from keyauthority_server.store.types import Mismatch

_LOWEST: Final = -(2**63)  # includes altered rows with revisions below the first change

_NOT_MADE: Final = "no change made it"
_MISSING: Final = "it is missing"
_UNREADABLE: Final = "it cannot be read"


def compare_records(rows: Rows, after: int, limit: int) -> tuple[list[Mismatch], int | None]:
    """Compare records with the newest change of each, for up to `limit` revisions.

    Takes the records created after revision `after` (0 for the first call, which also takes lower
    revisions). Returns the mismatches and the next cursor, None after the last page. Mismatches are
    records that differ from their newest change, records that are missing, and records without a
    change. Fields outside changes are not compared: digest, pepper version, last_used_time.
    """
    bound = after + limit
    within = (after or _LOWEST, bound)
    mismatches = [
        mismatch
        for statement, judge in (
            (KEYS_MADE, _judge_key),
            (PROJECTS_MADE, _judge_project),
            (KEYS_MISSING, _missing_key),
            (PROJECTS_MISSING, _missing_project),
        )
        for row in rows.each(statement, within)
        for mismatch in judge(row)
    ]
    newest = rows.one(NEWEST_MADE)
    ends = (
        newest is None
        or max((revision for revision in newest if revision is not None), default=0) <= bound
    )
    return sorted(
        mismatches, key=lambda mismatch: (mismatch.revision, mismatch.name)
    ), None if ends else bound


def _judge_key(row: Row) -> Iterator[Mismatch]:
    *columns, lineage, created, parent_lineage, last, left, made_type, made_keys = row
    access_key, revision = columns[:2]
    newest = max(created, last or created)
    try:
        made = json.loads(made_keys or "[]")
        name = {ChangeType.KEY_CREATED: 0, ChangeType.KEY_ROTATED: 1}.get(made_type)
        if name is None or len(made) <= name or made[name].get("access_key") != access_key:
            yield Mismatch(access_key, created, _NOT_MADE)
            return
        if lineage != (parent_lineage or access_key):
            yield Mismatch(access_key, created, "its lineage is another key's")
        records = [key for key in json.loads(left or "[]") if key.get("access_key") == access_key]
        yield from _compared(access_key, newest, revision, KEY_COLUMNS, columns, records)
    except (ValueError, TypeError, AttributeError):
        yield Mismatch(access_key, newest, _UNREADABLE)


def _judge_project(row: Row) -> Iterator[Mismatch]:
    *columns, created, last, left, made_type, made_id = row
    project_id, revision = columns[:2]
    newest = max(created, last or created)
    if (made_type, made_id) != (ChangeType.PROJECT_CREATED, project_id):
        yield Mismatch(project_id, created, _NOT_MADE)
        return
    try:
        records = [] if left is None else [json.loads(left)]
        yield from _compared(project_id, newest, revision, PROJECT_COLUMNS, columns, records)
    except (ValueError, TypeError, AttributeError):
        yield Mismatch(project_id, newest, _UNREADABLE)


def _compared(
    name: str,
    newest: int,
    revision: int,
    columns: Sequence[str],
    row: Row,
    left: Sequence[Mapping[str, Any]],
) -> Iterator[Mismatch]:
    if revision != newest:
        yield Mismatch(name, newest, f"it is numbered as of change {revision}")
        return
    found, expected = flat_from(columns, row), dict(left[0]) if left else {}
    differing = [column for column in columns if found.get(column) != expected.get(column)]
    if differing:
        yield Mismatch(name, newest, f"it was altered: {', '.join(differing)}")


def _missing_key(row: Row) -> Iterator[Mismatch]:
    revision, keys = row
    try:
        name = str(json.loads(keys)[-1]["access_key"])
    except (ValueError, TypeError, LookupError):
        name = ""
    yield Mismatch(name, revision, _MISSING)


def _missing_project(row: Row) -> Iterator[Mismatch]:
    revision, project_id = row
    yield Mismatch(project_id or "", revision, _MISSING)
