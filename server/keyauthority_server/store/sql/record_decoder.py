"""Decodes the rows of single-record reads and compares each with the log, for both engines.

It caches nothing: `records.RecordCache` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from keyauthority.clock import LONG_AGO
from keyauthority.model import Key, KeyKind, KeyMode, Project, Revision
from keyauthority_server.store.interface import StoreDamaged, StoreError
from keyauthority_server.store.rows import Row
from keyauthority_server.store.sql.integrity import stored_key, stored_project
from keyauthority_server.store.sql.statements import HELD_WIDTH, PROJECT_WIDTH, RECORD_AT
from keyauthority_server.store.types import Snapshot, Snapshots, StoredKey

_PROJECT_AT: Final = 1 + HELD_WIDTH  # after the head's revision and the key
_MODES: Final = frozenset(KeyMode)
_KINDS: Final = frozenset(KeyKind)
_NO_OUTLINE: Final = ("", KeyMode.LIVE, KeyKind.SECRET, None, None, bytes(32), 0)
_OPERATOR_AT: Final = _PROJECT_AT + PROJECT_WIDTH


def decode_snapshot(row: Row | None) -> Snapshot:
    """Decode a row of `READ_SNAPSHOT`; StoreDamaged unless the log agrees."""
    if row is None:
        raise StoreError("the counter row is missing")
    stored, project = decode_pair(row)
    return Snapshot(Revision(row[0]), stored, project, _key(row[_OPERATOR_AT:]))


def decode_snapshots(rows: Sequence[Row]) -> Snapshots:
    """Decode rows of `READ_SNAPSHOTS`, the last for the operator; StoreDamaged likewise."""
    if not rows:
        raise StoreError("the counter row is missing")
    pairs = [decode_pair(row) for row in rows]
    operator, _ = pairs.pop()
    return Snapshots(Revision(rows[0][0]), pairs, operator)


def decode_outline(access_key: str, row: Row | None) -> StoredKey:
    """Return a key with only the fields of a row of `OUTLINE`; the others are placeholders."""
    project_id, mode, kind, revoke_time, supersede_time, digest, version = row or _NO_OUTLINE
    if mode not in _MODES or kind not in _KINDS:
        raise StoreDamaged(f"the record {access_key!r} is damaged or altered")
    key = Key(
        access_key=access_key,
        project_id=project_id or "",
        mode=KeyMode(mode),
        kind=KeyKind(kind),
        revoke_time=None if revoke_time is None else LONG_AGO,
        supersede_time=None if supersede_time is None else LONG_AGO,
        create_time=LONG_AGO,
        update_time=LONG_AGO,
        revision=0,
    )
    return StoredKey(key, digest, version, access_key)


def decode_pair(row: Row) -> tuple[StoredKey | None, Project | None]:
    """Return the key and project of a row of either statement; StoreDamaged likewise."""
    return _key(row[1:_PROJECT_AT]), _project(row[_PROJECT_AT:_OPERATOR_AT])


def _key(row: Row) -> StoredKey | None:
    return None if row[RECORD_AT] is None else stored_key(row)


def _project(row: Row) -> Project | None:
    return None if row[0] is None else stored_project(row)
