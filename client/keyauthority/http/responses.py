"""HTTP responses of rejections: statuses, headers and bodies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from keyauthority.clock import SystemClock
from keyauthority.http.rejection import Rejection, RejectionKind, standings
from keyauthority.model import Verdict

STATUS: Final[Mapping[RejectionKind, tuple[int, str]]] = {
    RejectionKind.UNAUTHENTICATED: (401, "Unauthorized"),
    RejectionKind.FORBIDDEN: (403, "Forbidden"),
    RejectionKind.LIMITED: (429, "Too Many Requests"),
    RejectionKind.UNAVAILABLE: (503, "Service Unavailable"),
}

_INTEGER_MAX: Final = 999_999_999_999_999  # RFC 9651, section 3.3.1


def content(rejection: Rejection) -> dict[str, str]:
    """Return the JSON object of the response: `{"error": "expired"}`."""
    return {"error": rejection.error}


def body(rejection: Rejection) -> bytes:
    """Return the body of the response."""
    return json.dumps(content(rejection)).encode("ascii")


def headers(rejection: Rejection) -> list[tuple[str, str]]:
    """Return the headers of the response that do not describe its body."""
    fields = []
    if rejection.kind is RejectionKind.UNAUTHENTICATED:
        fields.append(("www-authenticate", "Bearer"))  # RFC 9110, section 11.6.1
    if rejection.retry_after is not None:
        fields.append(("retry-after", str(rejection.retry_after)))
    if rejection.verdict is not None:
        fields += rate_limit_headers(rejection.verdict)
    return fields


def all_headers(rejection: Rejection) -> list[tuple[str, str]]:
    """Return all headers of the response, including those of its body."""
    described = [
        ("content-type", "application/json"),
        ("content-length", str(len(body(rejection)))),
    ]
    return described + headers(rejection)


def rate_limit_headers(verdict: Verdict) -> list[tuple[str, str]]:
    """Return `RateLimit-Policy` and `RateLimit` for the limits of a verdict; empty without limits.

    The fields follow draft-ietf-httpapi-ratelimit-headers-10: the policies are named `key`,
    `project` and `quota`; `q` is the limit, `r` the remaining units, `t` the seconds until reset.
    """
    limits = standings(verdict)
    if not limits:
        return []
    now = SystemClock().now()
    policies, states = [], []
    for name, standing in limits:
        policies.append(f'"{name}";q={_integer(standing.limit)}')
        state = f'"{name}";r={_integer(standing.remaining)}'
        if standing.reset_time is not None:
            seconds = (standing.reset_time - now).total_seconds()
            state += f";t={_integer(int(seconds) + 1)}"
        states.append(state)
    return [("ratelimit-policy", ", ".join(policies)), ("ratelimit", ", ".join(states))]


def _integer(number: int) -> int:
    return min(max(number, 0), _INTEGER_MAX)
