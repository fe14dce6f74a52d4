"""Rights: the permissions that an operator key or a `[[callers]]` entry can hold.

The list is closed: a misspelt right would be stored and displayed without any effect. Keys stored
earlier with other permissions stay readable.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

RIGHTS: Final = (
    "audit:read",
    "changes:watch",
    "keys:create",
    "keys:import",
    "keys:read",
    "keys:revoke",
    "keys:rotate",
    "keys:update",
    "keys:verify",
    "operators:create",
    "operators:read",
    "operators:revoke",
    "operators:rotate",
    "operators:update",
    "projects:create",
    "projects:read",
    "projects:update",
    "usage:read",
    "usage:report",
)
NOT_A_RIGHT: Final = (
    f"not a right of operators; the rights are {', '.join(RIGHTS)}; "
    "wildcards such as keys:*, *:read and *:* stand for several"
)

_PAIRS: Final = tuple(tuple(right.split(":")) for right in RIGHTS)


def is_right(grant: str) -> bool:
    """True for a right, and for a grant with wildcards that matches at least one right."""
    resource, _, action = grant.partition(":")
    return any(
        resource in ("*", known_resource) and action in ("*", known_action)
        for known_resource, known_action in _PAIRS
    )


def not_rights(grants: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Yield the index of each grant that is not a right, and a description.

    Only the first description lists the rights.
    """
    description = NOT_A_RIGHT
    for index, grant in enumerate(grants):
        if not is_right(grant):
            yield index, description
            description = "not a right of operators"
