"""Permissions: `resource:action`, and which grant covers which.

Pure, standard library only. A grant may hold wildcards (`*:read`, `billing.*:*`); a needed
permission is concrete.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

EVERYTHING: Final = ("*:*",)

_NONE: Final[frozenset[str]] = frozenset()  # shared: an empty set of its own is 216 bytes
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


class Grants:
    """Grants in the form that needed permissions are looked up in.

    It answers as `covers` does for each grant. Without wildcards a lookup is one step; with them it
    is at most one comparison for each grant.
    """

    __slots__ = ("_actions", "_any_action", "_exact", "_prefixes", "_resources", "_wild")

    def __init__(self, grants: Iterable[str]) -> None:
        exact: set[str] = set()
        actions: set[str] = set()
        resources: set[str] = set()
        prefixes: dict[str, list[str]] = {}
        for grant in grants:
            resource, _, action = grant.partition(":")
            for allowed in ("write", "read") if action == "write" else (action,):
                if resource == "*":
                    actions.add(allowed)
                elif resource.endswith(".*"):
                    prefixes.setdefault(allowed, []).append(resource[:-1])
                elif allowed == "*":
                    resources.add(resource)
                else:
                    exact.add(grant if allowed == action else f"{resource}:{allowed}")
        self._exact = frozenset(exact) if exact else _NONE
        self._actions = frozenset(actions) if actions else _NONE
        self._resources = frozenset(resources) if resources else _NONE
        self._any_action = tuple(prefixes.pop("*", ()))
        self._prefixes = {action: (*found, *self._any_action) for action, found in prefixes.items()}
        self._wild = bool(actions or resources or prefixes or self._any_action)

    def holds(self, needed: Iterable[str]) -> bool:
        """True if each of `needed` is covered by one of the grants."""
        exact = self._exact
        for permission in needed:
            if permission not in exact and not (self._wild and self._covers(permission)):
                return False
        return True

    def _covers(self, needed: str) -> bool:
        resource, _, action = needed.partition(":")
        actions = self._actions
        if "*" in actions or action in actions or resource in self._resources:
            return True
        return resource.startswith(self._prefixes.get(action, self._any_action))
