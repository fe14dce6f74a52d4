"""What all frameworks share: where the key and the address come from, what a denial becomes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import Enum
from typing import Final, NamedTuple, Protocol

from keyauthority.clock import SystemClock
from keyauthority.errors import (
    DeadlineExceeded,
    KeyAuthorityError,
    ResourceExhausted,
    Unavailable,
)
from keyauthority.model import Standing, Verdict, VerdictCode
from keyauthority.restrictions import REFERRER_MAX, check_ip

HEADERS: Final = ("authorization", "x-api-key", "x-auth-token")
FORWARDED: Final = "x-forwarded-for"

Permissions = Sequence[str] | None
"""What a caller needs; None: he needs no key."""


class Verifies(Protocol):
    """`Verifier` and `Client`."""

    def verify(
        self,
        secret_key: str,
        *,
        permissions: Sequence[str] = (),
        client_ip: str = "",
        referrer: str = "",
    ) -> Verdict:
        """Tell whether a token may do what is asked."""
        ...


class AsyncVerifies(Protocol):
    """`AsyncVerifier` and `AsyncClient`."""

    async def verify(
        self,
        secret_key: str,
        *,
        permissions: Sequence[str] = (),
        client_ip: str = "",
        referrer: str = "",
    ) -> Verdict:
        """Tell whether a token may do what is asked."""
        ...


class Denial(Enum):
    """Why a call does not get through."""

    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    LIMITED = "limited"
    CANNOT_TELL = "cannot tell"


class Denied(NamedTuple):
    """A denial, in a word that the caller may know, and in how many seconds to come back."""

    denial: Denial
    code: str
    retry_after: int | None = None


_FORBIDDEN: Final = frozenset(
    {
        VerdictCode.PROJECT_SUSPENDED,
        VerdictCode.WRONG_PROJECT,
        VerdictCode.WRONG_MODE,
        VerdictCode.IP_NOT_ALLOWED,
        VerdictCode.REFERRER_NOT_ALLOWED,
        VerdictCode.APP_NOT_ALLOWED,
        VerdictCode.TARGET_NOT_ALLOWED,
        VerdictCode.MISSING_PERMISSION,
    }
)
_LIMITED: Final = frozenset({VerdictCode.RATE_LIMITED, VerdictCode.QUOTA_EXCEEDED})

NO_KEY: Final = Denied(Denial.UNAUTHENTICATED, "no key")
SEVERAL_KEYS: Final = Denied(Denial.UNAUTHENTICATED, "more than one key")
NOT_LISTED: Final = Denied(Denial.FORBIDDEN, "not listed")


def key_of(headers: Iterable[tuple[str, str]]) -> str | Denied:
    """Return the one key that the headers carry; their names are in lower case."""
    found = [(name, text) for name, text in headers if name in HEADERS]
    if len(found) > 1:
        return SEVERAL_KEYS
    for name, text in found:
        if name != "authorization":
            return text.strip()
        scheme, _, token = text.partition(" ")
        return token.strip() if scheme.lower() == "bearer" else NO_KEY
    return NO_KEY


def proxies(number: int) -> int:
    """Return how many proxies are trusted; ValueError for less than none."""
    if number < 0:
        raise ValueError("trusted_proxies is how many there are, none or more")
    return number


def address_of(peer: str, forwarded: Iterable[str], trusted_proxies: int) -> str:
    """Return the address of the client, empty if nobody who is trusted has told it.

    Each proxy appends the address that it was called from. What is left of the entry that the
    outermost trusted one has written was sent by the client, and is believed by nobody. Fewer
    entries than trusted proxies: the call has not come through all of them.
    """
    hops = [hop.strip() for line in forwarded for hop in line.split(",")]
    if len(hops) < trusted_proxies:
        return ""
    address = _bare(hops[-trusted_proxies]) if trusted_proxies else peer
    try:
        check_ip(address)
    except ValueError:
        return ""
    return address


def referrer_of(text: str) -> str:
    """Return the page that a browser says it comes from, empty if it says nothing of use."""
    return text if text.isprintable() and len(text) <= REFERRER_MAX else ""


def denied(verdict: Verdict) -> Denied | None:
    """Return what a verdict denies, None for VALID."""
    code = verdict.code
    if code is VerdictCode.VALID:
        return None
    if code in _FORBIDDEN:
        return Denied(Denial.FORBIDDEN, code.value)
    if code in _LIMITED:
        return Denied(Denial.LIMITED, code.value, _wait(verdict, SystemClock().now()))
    return Denied(Denial.UNAUTHENTICATED, code.value)


def failed(failure: KeyAuthorityError) -> Denied:
    """Return what a caller is told when nobody can tell; a fault of the service is raised again."""
    if isinstance(failure, Unavailable | DeadlineExceeded | ResourceExhausted):
        after = failure.retry_after
        seconds = 1 if after is None else int(after.total_seconds()) + 1
        return Denied(Denial.CANNOT_TELL, "cannot tell", seconds)
    raise failure


def needed(rules: Iterable[tuple[str, Permissions]], name: str) -> Permissions | Denied:
    """Return what the first rule demands that fits a name: itself, or its start before a `*`."""
    for rule, permissions in rules:
        if rule == name or (rule.endswith("*") and name.startswith(rule[:-1])):
            return permissions
    return NOT_LISTED


def _bare(hop: str) -> str:
    """Return an address as proxies write it, without port and brackets."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop


def _wait(verdict: Verdict, now: datetime) -> int | None:
    """Return the seconds until all limits that have nothing left begin anew."""
    standings: list[Standing | None] = [
        verdict.key_standing,
        verdict.project_standing,
        verdict.quota_standing,
    ]
    resets = [one.reset_time for one in standings if one is not None and not one.remaining]
    times = [time for time in resets if time is not None]
    if not times or len(times) < len(resets):
        return None
    return max(int((max(times) - now).total_seconds()) + 1, 1)
