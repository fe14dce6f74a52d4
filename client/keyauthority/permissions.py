"""Permissions: `resource:action`, and which grant covers which.

Pure, standard library only. A grant may hold wildcards (`*:read`, `billing.*:*`); a needed
permission is concrete.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

EVERYTHING: Final = ("*:*",)

_NAME = r"[a-z][a-z0-9_-]*"
_RESOURCE = rf"{_NAME}(?:\.{_NAME})*"
_NEEDED: Final = re.compile(rf"{_RESOURCE}:{_NAME}", re.ASCII)
_GRANT: Final = re.compile(rf"(?:\*|{_RESOURCE}(?:\.\*)?):(?:\*|{_NAME})", re.ASCII)


def is_grant(text: str) -> bool:
    """True for what a key may list: the resource may be `*` or end in `.*`, the action `*`."""
    return _GRANT.fullmatch(text) is not None


def is_concrete(text: str) -> bool:
    """True for what a caller may need: a resource and an action without wildcards."""
    return _NEEDED.fullmatch(text) is not None


@lru_cache(maxsize=65_536)
def covers(grant: str, other: str) -> bool:
    """True if all that `other` allows, a needed permission or a grant, is allowed by `grant`.

    `billing.*:read` covers `billing.invoices:read` and `billing.invoices.lines:read`, not
    `billing:read`; the action `write` covers `read`.
    """
    resource, _, action = grant.partition(":")
    other_resource, _, other_action = other.partition(":")
    if action not in ("*", other_action) and (action, other_action) != ("write", "read"):
        return False
    if resource == "*" or resource == other_resource:
        return True
    return resource.endswith(".*") and other_resource.startswith(resource[:-1])


def holds(grants: Iterable[str], needed: Iterable[str]) -> bool:
    """True if each of `needed` is covered by one of `grants`."""
    for one in needed:
        for grant in grants:
            if covers(grant, one):
                break
        else:
            return False
    return True
