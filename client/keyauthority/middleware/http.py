"""What ASGI, WSGI and FastAPI share: the rules of routes, and the answers to what is denied."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from keyauthority.middleware.admission import NOT_LISTED, Denial, Denied, Permissions, needed

STATUS: Final[Mapping[Denial, tuple[int, str]]] = {
    Denial.UNAUTHENTICATED: (401, "Unauthorized"),
    Denial.FORBIDDEN: (403, "Forbidden"),
    Denial.LIMITED: (429, "Too Many Requests"),
    Denial.CANNOT_TELL: (503, "Service Unavailable"),
}
_DOTS: Final = frozenset({".", ".."})


def route(rules: Mapping[str, Permissions], method: str, path: str) -> Permissions | Denied:
    """Return what a route demands.

    A rule is a method or `*`, a space and a path, at whose end a `*` stands for any rest:
    `GET /orders/*`. GET is HEAD too. The first that fits counts; what no rule fits is refused, and
    so is a path with dot segments, which may lead elsewhere than it seems.
    """
    if not _DOTS.isdisjoint(path.split("/")):
        return NOT_LISTED
    methods = ("*", method, "GET") if method == "HEAD" else ("*", method)
    split = ((rule.partition(" "), permissions) for rule, permissions in rules.items())
    fitting = (
        (pattern, permissions) for (verb, _, pattern), permissions in split if verb in methods
    )
    return needed(fitting, path)


def check(rules: Mapping[str, Permissions]) -> None:
    """Raise ValueError for a rule that fits nothing, TypeError for permissions that are no list."""
    for rule, permissions in rules.items():
        method, space, path = rule.partition(" ")
        if not space or not path.startswith("/") or not (method == "*" or method.isupper()):
            raise ValueError(f"a rule is a method or *, a space and a path, not {rule!r}")
        if isinstance(permissions, str):
            raise TypeError(f"the permissions of {rule!r} are a list of strings, not a string")


def headers(denied: Denied) -> list[tuple[str, str]]:
    """Return the headers of the answer to what is denied."""
    found = [("content-type", "application/json")]
    if denied.denial is Denial.UNAUTHENTICATED:
        found.append(("www-authenticate", "Bearer"))  # RFC 9110, section 11.6.1
    if denied.retry_after is not None:
        found.append(("retry-after", str(denied.retry_after)))
    return found


def body(denied: Denied) -> bytes:
    """Return the body of the answer: a JSON object that names what was wrong."""
    return json.dumps({"error": denied.code}).encode("ascii")
