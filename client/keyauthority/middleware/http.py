"""HTTP answers, shared by ASGI, WSGI and FastAPI: statuses, headers and bodies of rejections."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Final

from keyauthority.clock import SystemClock
from keyauthority.middleware.rejection import Rejection, RejectionKind, standings
from keyauthority.model import Verdict

STATUS: Final[Mapping[RejectionKind, tuple[int, str]]] = {
    RejectionKind.UNAUTHENTICATED: (401, "Unauthorized"),
    RejectionKind.FORBIDDEN: (403, "Forbidden"),
    RejectionKind.LIMITED: (429, "Too Many Requests"),
    RejectionKind.UNAVAILABLE: (503, "Service Unavailable"),
}
PREFLIGHT: Final = "access-control-request-method"

_INTEGER_MAX: Final = 999_999_999_999_999  # RFC 9651, section 3.3.1


def content(rejection: Rejection) -> dict[str, str]:
    """Return the JSON object of the answer: `{"error": "expired"}`."""
    return {"error": rejection.error}


def body(rejection: Rejection) -> bytes:
    """Return the body of the answer."""
    return json.dumps(content(rejection)).encode("ascii")


def headers(rejection: Rejection) -> list[tuple[str, str]]:
    """Return the headers of the answer that do not describe its body."""
    found = []
    if rejection.kind is RejectionKind.UNAUTHENTICATED:
        found.append(("www-authenticate", "Bearer"))  # RFC 9110, section 11.6.1
    if rejection.retry_after is not None:
        found.append(("retry-after", str(rejection.retry_after)))
    if rejection.verdict is not None:
        found += rate_limit_headers(rejection.verdict)
    return found


def all_headers(rejection: Rejection) -> list[tuple[str, str]]:
    """Return the headers of the answer, those of its body too."""
    described = [
        ("content-type", "application/json"),
        ("content-length", str(len(body(rejection)))),
    ]
    return described + headers(rejection)


def rate_limit_headers(verdict: Verdict) -> list[tuple[str, str]]:
    """Return `RateLimit-Policy` and `RateLimit` for the limits of a verdict; none without limits.

    The fields of draft-ietf-httpapi-ratelimit-headers-10: the policies are called `key`,
    `project` and `quota`; `q` is the limit, `r` the rest, `t` the seconds until it is reset.
    """
    limits = standings(verdict)
    if not limits:
        return []
    now = SystemClock().now()
    policies, rests = [], []
    for name, standing in limits:
        policies.append(f'"{name}";q={_integer(standing.limit)}')
        rest = f'"{name}";r={_integer(standing.remaining)}'
        if standing.reset_time is not None:
            seconds = (standing.reset_time - now).total_seconds()
            rest += f";t={_integer(int(seconds) + 1)}"
        rests.append(rest)
    return [("ratelimit-policy", ", ".join(policies)), ("ratelimit", ", ".join(rests))]


def is_preflight(method: str, headers: Iterable[str]) -> bool:
    """True for the request with which a browser asks, without a key, if it may send one."""
    return method == "OPTIONS" and PREFLIGHT in headers


def _integer(number: int) -> int:
    return min(max(number, 0), _INTEGER_MAX)
