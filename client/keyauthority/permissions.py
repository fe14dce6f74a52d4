"""Permissions of the form `resource:action`, and the coverage of grants.

Pure functions, standard library only. A grant may contain wildcards (`*:read`, `billing.*:*`); a
needed permission is concrete.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Set
from functools import lru_cache
from typing import Final, NamedTuple

EVERYTHING: Final = ("*:*",)
COMBINATIONS_MAX: Final = 64  # of permissions asked for together, some 10 KB
PERMISSIONS_MAX: Final = 256  # of all combinations together; some 2 ms to find their grants

_NONE: Final[frozenset[str]] = frozenset()  # shared: each empty set would take 216 bytes
_NAME = r"[a-z][a-z0-9_-]*"
_RESOURCE = rf"{_NAME}(?:\.{_NAME})*"
_NEEDED: Final = re.compile(rf"{_RESOURCE}:{_NAME}", re.ASCII)
_GRANT: Final = re.compile(rf"(?:\*|{_RESOURCE}(?:\.\*)?):(?:\*|{_NAME})", re.ASCII)


def is_grant(text: str) -> bool:
    """Return True for a grant: the resource may be `*` or end in `.*`, the action may be `*`."""
    return _GRANT.fullmatch(text) is not None


def is_concrete(text: str) -> bool:
    """Return True for a resource and an action without wildcards."""
    return _NEEDED.fullmatch(text) is not None


def covers(grant: str, other: str) -> bool:
    """Return True if `grant` allows everything that `other`, a permission or grant, allows.

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


def narrowest(grants: Collection[str], needed: str) -> tuple[str, ...]:
    """Return the grants that a needed permission makes use of; empty if none covers it.

    They cover it, and cover no other grant that does: of `*:read` and `orders:read`, the second
    is needed to read orders. Several remain if neither covers the other.
    """
    if needed in grants:
        return (needed,)
    resource, _, action = needed.partition(":")
    resources, covering = _resources(tuple(grants)), list[str]()
    for allowed in (action, "*", "write") if action == "read" else (action, "*"):
        # Of one action, the grant with the most specific resource is covered by the others.
        of_action = resources.get(allowed, _NO_RESOURCES)
        if resource in of_action.exact:
            covering.append(f"{resource}:{allowed}")
        elif resource.startswith(of_action.prefixes):
            prefix = next(one for one in of_action.prefixes if resource.startswith(one))
            covering.append(f"{prefix}*:{allowed}")
        elif of_action.is_any:
            covering.append(f"*:{allowed}")
    return tuple(
        grant
        for grant in covering
        if not any(other != grant and covers(grant, other) for other in covering)
    )


class _Resources(NamedTuple):
    """The resources of the grants of one action."""

    exact: frozenset[str]
    prefixes: tuple[str, ...]
    """Those that end in `.*`, without the `*`, the longest first."""
    is_any: bool


_NO_RESOURCES: Final = _Resources(frozenset(), (), is_any=False)


@lru_cache(256)  # keys; some 20 KB each with 100 grants
def _resources(grants: tuple[str, ...]) -> Mapping[str, _Resources]:
    by_action: dict[str, list[str]] = {}
    for grant in grants:
        resource, _, action = grant.partition(":")
        by_action.setdefault(action, []).append(resource)
    return {
        action: _Resources(
            frozenset(names),
            tuple(sorted((name[:-1] for name in names if name.endswith(".*")), key=len)[::-1]),
            is_any="*" in names,
        )
        for action, names in by_action.items()
    }


class AskedPermissions:
    """The permissions that verifications of a key asked for, in bounded memory.

    Most verifications of a key ask for the same. So a caller calls `note` only for permissions that
    are neither `asked` nor in `others`.
    """

    __slots__ = ("asked", "others", "used")

    def __init__(self) -> None:
        self.asked: tuple[str, ...] = ()
        """The permissions that the first verification asked for."""
        self.others: Set[tuple[str, ...]] = _NOTHING_ASKED
        """The other combinations."""
        self.used: Set[str] = frozenset()
        """The grants that earlier combinations made use of."""

    def note(self, permissions: tuple[str, ...], grants: Collection[str]) -> None:
        """Add a combination; too many are replaced by the grants of the key that they use."""
        if len(self.others) > COMBINATIONS_MAX or sum(map(len, self.others)) > PERMISSIONS_MAX:
            self.resolve(grants)
        if self.asked:
            self.others = {*self.others, permissions}
        else:
            self.asked = permissions

    def take(self) -> AskedPermissions:
        """Return what was asked for, and begin again."""
        taken = AskedPermissions()
        taken.asked, taken.others, taken.used = self.asked, self.others, self.used
        self.asked, self.others, self.used = (), _NOTHING_ASKED, frozenset()
        return taken

    def permissions(self) -> set[str]:
        """Return the permissions of the combinations."""
        return set().union(self.asked, *self.others)

    def resolve(self, grants: Collection[str]) -> None:
        """Replace all combinations by the grants that they use."""
        self.used |= {grant for needed in self.permissions() for grant in narrowest(grants, needed)}
        self.asked, self.others = (), _NOTHING_ASKED


_NOTHING_ASKED: Final = frozenset({()})
"""A verification that asks for nothing is no combination to add."""


class Grants:
    """Grants indexed for lookup, equivalent to `covers` on each grant.

    A lookup is one step without wildcards, else at most one comparison per grant.
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
        self._prefixes = {action: (*names, *self._any_action) for action, names in prefixes.items()}
        self._wild = bool(actions or resources or prefixes or self._any_action)

    def holds(self, needed: Iterable[str]) -> bool:
        """Return True if the grants cover each of the needed permissions."""
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
