"""Whether what a list names lies in a scope: lists do not rely on who asks for them."""

from __future__ import annotations

from typing import Final

from keyauthority_server.store.sql import Rows
from keyauthority_server.store.values import Scope

_PROJECT_OF: Final = "SELECT project_id FROM key WHERE access_key = ?"


def names_its_own(rows: Rows, scope: Scope, project_id: str, access_key: str) -> bool:
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
