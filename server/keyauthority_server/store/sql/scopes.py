"""Scope checks of records, and of the projects and keys that a list names."""

from __future__ import annotations

from typing import Final

from keyauthority.model import Key
from keyauthority_server.store.rows import Rows
from keyauthority_server.store.types import Scope

_PROJECT_OF: Final = "SELECT project_id FROM key WHERE access_key = ?"


def in_scope(key: Key, scope: Scope) -> bool:
    """True if the key belongs to one of the projects; operator keys belong to no project."""
    return scope is None or (key.project_id != "" and key.project_id in scope)


def is_within_scope(rows: Rows, scope: Scope, project_id: str, access_key: str) -> bool:
    """True unless the named project or key is outside the scope, as operator keys always are.

    An empty text names nothing.
    """
    if scope is None:
        return True
    if project_id and project_id not in scope:
        return False
    if not access_key:
        return True
    found = rows.one(_PROJECT_OF, (access_key,))
    return found is not None and bool(found[0]) and found[0] in scope
