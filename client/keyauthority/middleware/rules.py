"""Rules: the permissions of each route of an HTTP service, and of each method of a gRPC service.

    rules = RouteRules({"* /health": None, "GET /orders/*": ["orders:read"]})
    rules.match("GET", "/orders/1")  # ("orders:read",)

The first rule that fits counts. A request that fits none is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import unquote

from keyauthority.middleware.admission import Permissions, check_permissions
from keyauthority.middleware.rejection import NOT_LISTED, Rejection

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
    plain: str
    """`path` as `_plain` writes it."""
    is_prefix: bool
    permissions: Permissions

    def takes(self, method: str) -> bool:
        return self.method in ("*", method) or (self.method, method) == ("GET", "HEAD")

    def fits(self, path: str) -> bool:
        return path.startswith(self.path) if self.is_prefix else path == self.path


class RouteRules:
    """Rules for methods and paths."""

    def __init__(self, rules: Mapping[str, Permissions]) -> None:
        """A rule is a method or `*`, a space and a path: `GET /orders/*`. GET covers HEAD.

        A `*` at the end of the path stands for any rest. ValueError for a rule that fits nothing.
        """
        self._rules = [_route_rule(text, permissions) for text, permissions in rules.items()]
        self._methods = METHODS | {rule.method for rule in self._rules if rule.method != "*"}

    def match(self, method: str, path: str) -> Permissions | Rejection:
        """Return the permissions that a request needs.

        `path` is decoded and below the place where the application is mounted. A method that is
        not in upper case, or neither standard nor named by a rule, is refused. So is a path with
        dot segments, control characters or a second percent-encoding within the first.

        Applications differ in how they read letter case, doubled and trailing slashes,
        backslashes, `;parameters` and further percent-encoding. A path that a rule does not name
        exactly has to satisfy the rule of each such reading too.
        """
        path = path or "/"
        plain = _plain(path)
        if method not in self._methods or plain is None:
            return NOT_LISTED
        rules = [rule for rule in self._rules if rule.takes(method)]
        found = next((rule for rule in rules if rule.fits(path)), None)
        if found is None:
            return NOT_LISTED
        if not found.is_prefix:
            return found.permissions
        stripped = plain.rstrip("/")
        needed = [found.permissions]
        needed += [_first(rules, reading) for reading in (stripped or "/", f"{stripped}/")]
        if not any(permissions is not None for permissions in needed):
            return None
        return tuple(dict.fromkeys(each for permissions in needed for each in permissions or ()))


class MethodRules:
    """Rules for the methods of gRPC."""

    def __init__(self, rules: Mapping[str, Permissions]) -> None:
        """A rule is `/package.Service/Method`; a `*` at its end stands for any rest."""
        for rule, permissions in rules.items():
            if not (rule.startswith("/") or rule == "*") or "*" in rule[:-1]:
                raise ValueError(
                    f"a rule is /package.Service/Method, with * at its end only, not {rule!r}"
                )
            check_permissions(permissions, repr(rule))
        self._rules = dict(rules)

    def match(self, method: str) -> Permissions | Rejection:
        """Return the permissions that a call needs."""
        for rule, permissions in self._rules.items():
            if rule == method or (rule.endswith("*") and method.startswith(rule[:-1])):
                return permissions
        return NOT_LISTED


def _route_rule(text: str, permissions: Permissions) -> _Rule:
    method, space, path = text.partition(" ")
    prefix = path.removesuffix("*")
    plain = _plain(prefix) if path.startswith("/") else None
    if not space or plain is None or not (method == "*" or method.isupper()):
        raise ValueError(f"a rule is a method in upper case or *, a space and a path, not {text!r}")
    if "*" in prefix or _NO_PATH.search(path):
        raise ValueError(f"a rule is a path, decoded, with * at its end only, not {text!r}")
    check_permissions(permissions, repr(text))
    return _Rule(method, prefix, plain, prefix != path, permissions)


def _first(rules: list[_Rule], plain: str) -> Permissions:
    """Return the permissions of the first rule for a plain path; None also if there is none."""
    for rule in rules:
        if plain == rule.plain or (rule.is_prefix and plain.startswith(rule.plain)):
            return rule.permissions
    return None


def _plain(path: str) -> str | None:
    """Return a path in the form in which all its readings are equal; None if it is refused."""
    if not path.startswith("/") or _CONTROL.search(path):
        return None
    text = unquote(path) if "%" in path else path
    if text != path and _ENCODED.search(text):
        return None
    text = _PARAMETERS.sub("", text.replace("\\", "/"))
    if not _DOTS.isdisjoint(text.split("/")) or _CONTROL.search(text):
        return None
    return _SLASHES.sub("/", text).casefold()
