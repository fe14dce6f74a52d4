"""Rejections: the error word and kind of each denied verdict.

One table serves all frameworks, so that a key gets the same response in each:

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
    """The class of a rejection; each framework maps it to one status."""

    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    LIMITED = "limited"
    UNAVAILABLE = "unavailable"


class Rejection(NamedTuple):
    """A rejected request."""

    kind: RejectionKind
    error: str
    """A fixed word for the client: a verdict in lower case, or one of the constants below."""
    retry_after: int | None = None
    """Delay before the next attempt, in seconds."""
    verdict: Verdict | None = None
    """The denied verdict; None if the authority was not called or did not respond."""


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
    """Return the rejection of a denied verdict; None for VALID."""
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
    """Return the rejection for a failed verification.

    The client gets the same word for every cause. A cause that a retry cannot remove, such as a
    missing permission of the operator key, is logged.
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
    """Return the seconds until all exhausted limits are reset; None if one never is."""
    resets = [limit.reset_time for _, limit in standings(verdict) if not limit.remaining]
    times = [time for time in resets if time is not None]
    if not times or len(times) < len(resets):
        return None
    return max(int((max(times) - now).total_seconds()) + 1, 1)
