"""Rejections: the error word of each denied verdict, and its kind.

One table serves every framework, so that a key meets the same answer at each:

    rejection = reject(verdict)  # None for VALID
    status, phrase = http.STATUS[rejection.kind]
"""

from __future__ import annotations

import logging
from datetime import datetime
from enum import Enum
from typing import Final, NamedTuple

from keyauthority.clock import SystemClock
from keyauthority.errors import (
    DeadlineExceeded,
    KeyAuthorityError,
    ResourceExhausted,
    Unavailable,
)
from keyauthority.model import Standing, Verdict, VerdictCode

LOGGER: Final = logging.getLogger("keyauthority.middleware")


class RejectionKind(Enum):
    """The class of a rejection: each framework has one status for each."""

    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    LIMITED = "limited"
    UNAVAILABLE = "unavailable"


class Rejection(NamedTuple):
    """A request that is not let through."""

    kind: RejectionKind
    error: str
    """A fixed word for the client: a verdict in lower case, or one of those below."""
    retry_after: int | None = None
    """Seconds."""
    verdict: Verdict | None = None
    """The verdict behind it, None if the authority was not asked or did not answer."""


NO_KEY: Final = Rejection(RejectionKind.UNAUTHENTICATED, "no_key")
SEVERAL_KEYS: Final = Rejection(RejectionKind.UNAUTHENTICATED, "several_keys")
MALFORMED: Final = Rejection(RejectionKind.UNAUTHENTICATED, VerdictCode.MALFORMED.value)
NOT_LISTED: Final = Rejection(RejectionKind.FORBIDDEN, "not_listed")
MISSING_PERMISSION: Final = Rejection(RejectionKind.FORBIDDEN, VerdictCode.MISSING_PERMISSION.value)
UNAVAILABLE: Final = Rejection(RejectionKind.UNAVAILABLE, "unavailable")

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


def reject(verdict: Verdict) -> Rejection | None:
    """Return the rejection of a denied verdict, None for VALID."""
    code = verdict.code
    if code is VerdictCode.VALID:
        return None
    if code in _FORBIDDEN:
        return Rejection(RejectionKind.FORBIDDEN, code.value, verdict=verdict)
    if code in _LIMITED:
        wait = _seconds_until_reset(verdict, SystemClock().now())
        return Rejection(RejectionKind.LIMITED, code.value, wait, verdict)
    return Rejection(RejectionKind.UNAUTHENTICATED, code.value, verdict=verdict)


def reject_failure(failure: KeyAuthorityError) -> Rejection:
    """Return the rejection for a call without a verdict.

    The client sees the same word for each cause. A cause that waiting does not remove, such as a
    right that the operator key lacks, is logged.
    """
    if isinstance(failure, Unavailable | DeadlineExceeded | ResourceExhausted):
        after = failure.retry_after
        return UNAVAILABLE._replace(
            retry_after=1 if after is None else int(after.total_seconds()) + 1
        )
    LOGGER.error("cannot verify keys: %s: %s", failure.status, failure.message)
    return UNAVAILABLE


def standings(verdict: Verdict) -> list[tuple[str, Standing]]:
    """Return the limits of a verdict with their names: `key`, `project`, `quota`."""
    named = (
        ("key", verdict.key_standing),
        ("project", verdict.project_standing),
        ("quota", verdict.quota_standing),
    )
    return [(name, standing) for name, standing in named if standing is not None]


def _seconds_until_reset(verdict: Verdict, now: datetime) -> int | None:
    """Return the seconds until every exhausted limit has been reset; None if one never is."""
    resets = [each.reset_time for _, each in standings(verdict) if not each.remaining]
    times = [time for time in resets if time is not None]
    if not times or len(times) < len(resets):
        return None
    return max(int((max(times) - now).total_seconds()) + 1, 1)
