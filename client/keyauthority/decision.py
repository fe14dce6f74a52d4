"""The judgement: one pure function, the same in the server and in the client's process.

No clock, no I/O, no exception. What comes before (reading the token, finding the record, comparing
the digest: MALFORMED and UNKNOWN) and after (drawing limits: RATE_LIMITED and QUOTA_EXCEEDED) is
the business of whoever holds the token and the counters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from keyauthority.model import (
    UNRESTRICTED,
    Facts,
    Key,
    KeyKind,
    KeyState,
    Project,
    Verdict,
    VerdictCode,
)
from keyauthority.permissions import EVERYTHING, holds
from keyauthority.requests import Presentation
from keyauthority.restrictions import (
    android_app_allowed,
    ios_app_allowed,
    ip_allowed,
    referrer_allowed,
    target_allowed,
)


def decide(key: Key, project: Project | None, facts: Facts, now: datetime) -> VerdictCode:
    """Return the first check of the contract's order that fails, or VALID."""
    return next(_failing(key, project, facts, now), VerdictCode.VALID)


def explain(
    key: Key, project: Project | None, facts: Facts, now: datetime
) -> tuple[VerdictCode, ...]:
    """Return every check that fails, in the contract's order."""
    return tuple(_failing(key, project, facts, now))


def state_of(key: Key, now: datetime) -> KeyState:
    """Return where the key is in its life: the first of the states that applies, else ACTIVE."""
    for code in _ended(key, now):
        return _STATES[code]
    return KeyState.ACTIVE


def end_of(key: Key) -> datetime:
    """Return the moment when the key ends by itself: from then on it is never VALID."""
    return min(key.expire_time or _NEVER, key.supersede_time or _NEVER)


def grants_of(key: Key | Verdict) -> tuple[str, ...]:
    """Return the grants of a key, or of the key of a verdict: everything for SECRET."""
    return EVERYTHING if key.kind is KeyKind.SECRET else key.permissions


def judged(
    key: Key,
    project: Project | None,
    presentation: Presentation,
    now: datetime,
    revision: int,
    log_id: str,
) -> Verdict:
    """Return the verdict on a token that is the key's, before any limit is drawn."""
    facts, record = presentation.facts, presentation.include_record
    return Verdict(
        code=decide(key, project, facts, now),
        access_key=key.access_key,
        project_id=key.project_id,
        mode=key.mode,
        kind=key.kind,
        permissions=key.permissions,
        labels=key.labels,
        expire_time=key.expire_time,
        revision=revision,
        log_id=log_id,
        failed=explain(key, project, facts, now) if presentation.explain else (),
        key=shown(key, now) if record else None,
        project=project if record else None,
    )


def limited(key: Key, project: Project | None) -> bool:
    """True if a verification has something to draw from, which only the server can do."""
    return (
        key.rate_limit is not None
        or key.quota is not None
        or (project is not None and project.rate_limit is not None)
    )


def denied(code: VerdictCode, presentation: Presentation, revision: int, log_id: str) -> Verdict:
    """Return the verdict on a token that is no key's, MALFORMED or UNKNOWN: it says no more."""
    failed = (code,) if presentation.explain else ()
    return Verdict(code=code, revision=revision, log_id=log_id, failed=failed)


def shown(key: Key, now: datetime) -> Key:
    """Return the key with the state that it is in, as callers see it."""
    return replace(key, state=state_of(key, now))


def _failing(
    key: Key, project: Project | None, facts: Facts, now: datetime
) -> Iterator[VerdictCode]:
    # 1 MALFORMED and 2 UNKNOWN are found out before there is a record to judge.
    if facts.access_key and facts.access_key != key.access_key:  # 3
        yield VerdictCode.WRONG_ACCESS_KEY
    yield from _ended(key, now)  # 4 to 7
    if project is not None and project.suspended:  # 8
        yield VerdictCode.PROJECT_SUSPENDED
    if facts.project_id and facts.project_id != key.project_id:  # 9
        yield VerdictCode.WRONG_PROJECT
    if facts.mode is not None and facts.mode is not key.mode:  # 10
        yield VerdictCode.WRONG_MODE
    if key.restrictions is not UNRESTRICTED:  # 11 to 14
        yield from _restricted(key, facts)
    if facts.permissions and not holds(grants_of(key), facts.permissions):  # 15
        yield VerdictCode.MISSING_PERMISSION
    # 16 RATE_LIMITED and 17 QUOTA_EXCEEDED are drawn after all of these hold.


def _ended(key: Key, now: datetime) -> Iterator[VerdictCode]:
    if key.revoke_time is not None:  # 4
        yield VerdictCode.REVOKED
    if key.supersede_time is not None and now >= key.supersede_time:  # 5
        yield VerdictCode.SUPERSEDED
    if key.expire_time is not None and now >= key.expire_time:  # 6
        yield VerdictCode.EXPIRED
    if key.disabled:  # 7
        yield VerdictCode.DISABLED


def _restricted(key: Key, facts: Facts) -> Iterator[VerdictCode]:
    only = key.restrictions
    if only.allowed_ips and not ip_allowed(only.allowed_ips, facts.client_ip):  # 11
        yield VerdictCode.IP_NOT_ALLOWED
    if only.allowed_referrers and not referrer_allowed(  # 12
        only.allowed_referrers, facts.referrer
    ):
        yield VerdictCode.REFERRER_NOT_ALLOWED
    if (only.android_apps and not android_app_allowed(only.android_apps, facts.app)) or (  # 13
        only.ios_bundle_ids and not ios_app_allowed(only.ios_bundle_ids, facts.app)
    ):
        yield VerdictCode.APP_NOT_ALLOWED
    if only.api_targets and not target_allowed(only.api_targets, facts.api_target):  # 14
        yield VerdictCode.TARGET_NOT_ALLOWED


_NEVER: Final = datetime.max.replace(tzinfo=UTC)
_STATES: Final = {
    VerdictCode.REVOKED: KeyState.REVOKED,
    VerdictCode.SUPERSEDED: KeyState.SUPERSEDED,
    VerdictCode.EXPIRED: KeyState.EXPIRED,
    VerdictCode.DISABLED: KeyState.DISABLED,
}
