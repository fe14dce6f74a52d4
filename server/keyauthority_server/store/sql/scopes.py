"""Whether a record lies in a scope, and what a list names: neither relies on who asks."""

from __future__ import annotations

from typing import Final

from keyauthority.model import Key
from keyauthority_server.store.sql.statements import Rows
from keyauthority_server.store.types import Scope

_PROJECT_OF: Final = "SELECT project_id FROM key WHERE access_key = ?"


def in_scope(key: Key, scope: Scope) -> bool:
    """True if the key is of one of the projects; an operator key is of none."""
    return scope is None or (key.project_id != "" and key.project_id in scope)


def is_within_scope(rows: Rows, scope: Scope, project_id: str, access_key: str) -> bool:
    """True unless a project or key is named that is not of the scope; an operator key is of none.

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
