"""Rules: the permissions needed by routes of an HTTP service and methods of a gRPC service.

    rules = RouteRules({"* /health": None, "GET /orders/*": ["orders:read"]})
    rules.match("GET", "/orders/1")  # ("orders:read",)

The first matching rule applies. A request without a matching rule is rejected.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import unquote

from keyauthority.http.rejection import NOT_LISTED, Rejection
from keyauthority.middleware.admission import Permissions, check_permissions

METHODS: Final = frozenset(
    {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"}
)  # RFC 9110, section 9; RFC 5789

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_ENCODED: Final = re.compile(r"%[0-9a-f]{2}", re.IGNORECASE | re.ASCII)
_NO_PATH: Final = re.compile(r"[?#{}\s]")
_PARAMETERS: Final = re.compile(r";[^/]*")
_SLASHES: Final = re.compile(r"/{2,}")
_DOTS: Final = frozenset({".", ".."})


class _Rule(NamedTuple):
    method: str
    path: str
    """Without its final `*`."""
    canonical: str
    """`path` in canonical form."""
    is_prefix: bool
    permissions: Permissions

    def matches_method(self, method: str) -> bool:
        return self.method in ("*", method) or (self.method, method) == ("GET", "HEAD")

    def matches_path(self, path: str) -> bool:
        return path.startswith(self.path) if self.is_prefix else path == self.path


class RouteRules:
    """Rules for methods and paths."""

    def __init__(self, rules: Mapping[str, Permissions]) -> None:
        """Parse rules of a method or `*`, a space and a path: `GET /orders/*`. GET covers HEAD.

        A `*` at the end of the path matches any rest. Raises ValueError for a rule that can never
        match.
        """
        _check_mapping(rules)
        self._rules = [_route_rule(text, permissions) for text, permissions in rules.items()]
        self._methods = METHODS | {rule.method for rule in self._rules if rule.method != "*"}

    def match(self, method: str, path: str) -> Permissions | Rejection:
        """Return the permissions needed by a request.

        `path` is decoded and relative to the mount point of the application. Rejected are a method
        not in upper case, a method neither standard nor named by a rule, and a path with dot
        segments, control characters or a nested percent-encoding.

        Applications interpret letter case, doubled and trailing slashes, backslashes,
        `;parameters` and further percent-encoding differently. A path not named exactly by a rule
        must therefore satisfy the rules of all these readings.
        """
        path = path or "/"
        canonical = _canonical(path)
        if method not in self._methods or canonical is None:
            return NOT_LISTED
        rules = [rule for rule in self._rules if rule.matches_method(method)]
        match = next((rule for rule in rules if rule.matches_path(path)), None)
        if match is None:
            return NOT_LISTED
        if not match.is_prefix:
            return match.permissions
        stripped = canonical.rstrip("/")
        needed = [match.permissions]
        needed += [_first(rules, reading) for reading in (stripped or "/", f"{stripped}/")]
        if not any(permissions is not None for permissions in needed):
            return None
        return tuple(dict.fromkeys(name for permissions in needed for name in permissions or ()))


class MethodRules:
    """Rules for gRPC methods."""

    def __init__(self, rules: Mapping[str, Permissions]) -> None:
        """Parse rules of the form `/package.Service/Method`; a final `*` matches any rest."""
        _check_mapping(rules)
        for rule, permissions in rules.items():
            if not (rule.startswith("/") or rule == "*") or "*" in rule[:-1]:
                raise ValueError(
                    f"a rule is /package.Service/Method, with * at its end only, not {rule!r}"
                )
            check_permissions(permissions, repr(rule))
        self._rules = dict(rules)

    def match(self, method: str) -> Permissions | Rejection:
        """Return the permissions needed by a call."""
        for rule, permissions in self._rules.items():
            if rule == method or (rule.endswith("*") and method.startswith(rule[:-1])):
                return permissions
        return NOT_LISTED


def _check_mapping(rules: object) -> None:
    if not isinstance(rules, Mapping):
        raise TypeError(
            "rules map each route or method to its permissions, such as "
            '{"GET /orders": ["orders:read"]}, or to None if it needs no key'
        )


def _route_rule(text: str, permissions: Permissions) -> _Rule:
    method, space, path = text.partition(" ")
    prefix = path.removesuffix("*")
    canonical = _canonical(prefix) if path.startswith("/") else None
    if not space or canonical is None or not (method == "*" or method.isupper()):
        raise ValueError(f"a rule is a method in upper case or *, a space and a path, not {text!r}")
    if "*" in prefix or _NO_PATH.search(path):
        raise ValueError(f"a rule is a path, decoded, with * at its end only, not {text!r}")
    check_permissions(permissions, repr(text))
    return _Rule(method, prefix, canonical, prefix != path, permissions)


def _first(rules: list[_Rule], path: str) -> Permissions:
    """Return the permissions of the first rule for a canonical path; None if there is none."""
    for rule in rules:
        if path == rule.canonical or (rule.is_prefix and path.startswith(rule.canonical)):
            return rule.permissions
    return None


def _canonical(path: str) -> str | None:
    """Return a path in the form shared by all its readings; None if it is rejected."""
    if not path.startswith("/") or _CONTROL.search(path):
        return None
    text = unquote(path) if "%" in path else path
    if text != path and _ENCODED.search(text):
        return None
    text = _PARAMETERS.sub("", text.replace("\\", "/"))
    if not _DOTS.isdisjoint(text.split("/")) or _CONTROL.search(text):
        return None
    return _SLASHES.sub("/", text).casefold()
