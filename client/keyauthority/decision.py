"""The decision on a key: one pure function, shared by the server and the client's verifier.

No clock, no I/O, no exceptions. The steps before it (parsing the token, finding the record,
comparing the digest: MALFORMED and UNKNOWN) and after it (spending from limits: RATE_LIMITED and
QUOTA_EXCEEDED) belong to the callers, which hold the token and the counters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, NamedTuple

from keyauthority.clock import LONG_AGO
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
from keyauthority.permissions import EVERYTHING, Grants
from keyauthority.requests import VerifyQuery
from keyauthority.restrictions import DIRECT, FactParsers, Matcher


class CompiledKey(NamedTuple):
    """The rules of a key in the form that facts are compared with.

    It is computed on the first decision and stored with the record, which bounds its lifetime.
    """

    end: datetime
    """Time from which the key is never VALID; in the distant past if revoked or disabled."""
    grants: Grants
    matcher: Matcher | None
    """None for a key without restrictions."""


def decide(
    key: Key,
    project: Project | None,
    facts: Facts,
    now: datetime,
    parsers: FactParsers = DIRECT,
) -> VerdictCode:
    """Return the first check that fails, in the contract's order, or VALID."""
    return next(_failing(key, project, facts, now, parsers), VerdictCode.VALID)


def explain(
    key: Key,
    project: Project | None,
    facts: Facts,
    now: datetime,
    parsers: FactParsers = DIRECT,
) -> tuple[VerdictCode, ...]:
    """Return every check that fails, in the contract's order."""
    return tuple(_failing(key, project, facts, now, parsers))


def state_of(key: Key, now: datetime) -> KeyState:
    """Return the lifecycle state of the key: the first that applies, else ACTIVE."""
    for code in _ended(key, now):
        return _STATES[code]
    return KeyState.ACTIVE


def end_of(key: Key) -> datetime:
    """Return the time from which the key is never VALID."""
    return _compiled(key).end


def first_end_of(key: Key, now: datetime) -> datetime | None:
    """Return when the key was revoked, superseded or expired, the first of them; None if active."""
    ends = (key.revoke_time, key.supersede_time, key.expire_time)
    return min((end for end in ends if end is not None and end <= now), default=None)


def grants_of(key: Key | Verdict) -> tuple[str, ...]:
    """Return the grants of a key or verdict: `*:*` for SECRET."""
    return EVERYTHING if key.kind is KeyKind.SECRET else key.permissions


def permits(key: Key, *needed: str) -> bool:
    """Return True if the grants of the key cover all of the needed permissions."""
    return _compiled(key).grants.holds(needed)


def build_verdict(
    key: Key,
    project: Project | None,
    query: VerifyQuery,
    now: datetime,
    revision: int,
    log_id: str,
    parsers: FactParsers = DIRECT,
) -> Verdict:
    """Return the verdict on a genuine token of the key, before any limit is spent from."""
    facts, record = query.facts, query.include_record
    failed: tuple[VerdictCode, ...] = ()
    if query.explain:
        failed = explain(key, project, facts, now, parsers)
        code = failed[0] if failed else VerdictCode.VALID
    else:
        code = decide(key, project, facts, now, parsers)
    verdict = describe(key, code, revision, log_id, failed)
    return verdict._replace(key=with_state(key, now), project=project) if record else verdict


def describe(
    key: Key,
    code: VerdictCode,
    revision: int = 0,
    log_id: str = "",
    failed: tuple[VerdictCode, ...] = (),
) -> Verdict:
    """Return a verdict on a genuine token that has been decided, with the key's public fields."""
    return Verdict(
        code=code,
        access_key=key.access_key,
        project_id=key.project_id,
        mode=key.mode,
        kind=key.kind,
        permissions=key.permissions,
        labels=key.labels,
        expire_time=key.expire_time,
        revision=revision,
        log_id=log_id,
        failed=failed,
    )


def has_limits(key: Key, project: Project | None) -> bool:
    """Return True if the key or its project has a limit, which only the server can spend from."""
    return (
        key.rate_limit is not None
        or key.quota is not None
        or (project is not None and project.rate_limit is not None)
    )


def denied(code: VerdictCode, query: VerifyQuery, revision: int, log_id: str) -> Verdict:
    """Return the verdict MALFORMED or UNKNOWN, which reveals nothing about any key."""
    failed = (code,) if query.explain else ()
    return Verdict(code=code, revision=revision, log_id=log_id, failed=failed)


def with_state(key: Key, now: datetime) -> Key:
    """Return the key with its current state filled in."""
    return replace(key, state=state_of(key, now))


def _failing(
    key: Key, project: Project | None, facts: Facts, now: datetime, parsers: FactParsers
) -> Iterator[VerdictCode]:
    end, grants, matcher = _compiled(key)
    # 1 MALFORMED and 2 UNKNOWN are decided before a record is available.
    if facts.access_key and facts.access_key != key.access_key:  # 3
        yield VerdictCode.WRONG_ACCESS_KEY
    if now >= end:  # 4 to 7
        yield from _ended(key, now)
    if project is not None and project.suspended:  # 8
        yield VerdictCode.PROJECT_SUSPENDED
    if facts.project_id and facts.project_id != key.project_id:  # 9
        yield VerdictCode.WRONG_PROJECT
    if facts.mode is not None and facts.mode is not key.mode:  # 10
        yield VerdictCode.WRONG_MODE
    if matcher is not None:
        if not matcher.allows_address(facts.client_ip, parsers.address):  # 11
            yield VerdictCode.IP_NOT_ALLOWED
        if not matcher.allows_referrer(facts.referrer, parsers.referrer):  # 12
            yield VerdictCode.REFERRER_NOT_ALLOWED
        if not matcher.allows_app(facts.app):  # 13
            yield VerdictCode.APP_NOT_ALLOWED
        if not matcher.allows_target(facts.api_target):  # 14
            yield VerdictCode.TARGET_NOT_ALLOWED
    if facts.permissions and not grants.holds(facts.permissions):  # 15
        yield VerdictCode.MISSING_PERMISSION
    # 16 RATE_LIMITED and 17 QUOTA_EXCEEDED: the limits are spent from after all of these pass.


def _compiled(key: Key) -> CompiledKey:
    try:
        return key.compiled  # type: ignore[return-value] # set by `_compile` only
    except AttributeError:
        return _compile(key)


def _compile(key: Key) -> CompiledKey:
    """Compile a record and store the result with it; concurrent calls are harmless."""
    end = min(key.expire_time or _NEVER, key.supersede_time or _NEVER)
    grants = grants_of(key)
    compiled = CompiledKey(
        LONG_AGO if key.revoke_time is not None or key.disabled else end,
        _shared(grants) if len(grants) <= _SHARED_MAX else Grants(grants),
        None if key.restrictions == UNRESTRICTED else Matcher(key.restrictions),
    )
    object.__setattr__(key, "compiled", compiled)
    return compiled


@lru_cache(maxsize=1_024)  # most keys of a deployment have one of a few lists of grants
def _shared(grants: tuple[str, ...]) -> Grants:
    return Grants(grants)


def _ended(key: Key, now: datetime) -> Iterator[VerdictCode]:
    if key.revoke_time is not None:  # 4
        yield VerdictCode.REVOKED
    if key.supersede_time is not None and now >= key.supersede_time:  # 5
        yield VerdictCode.SUPERSEDED
    if key.expire_time is not None and now >= key.expire_time:  # 6
        yield VerdictCode.EXPIRED
    if key.disabled:  # 7
        yield VerdictCode.DISABLED


_SHARED_MAX: Final = 16  # grants of a key: longer lists would fill the memory
_NEVER: Final = datetime.max.replace(tzinfo=UTC)
_STATES: Final = {
    VerdictCode.REVOKED: KeyState.REVOKED,
    VerdictCode.SUPERSEDED: KeyState.SUPERSEDED,
    VerdictCode.EXPIRED: KeyState.EXPIRED,
    VerdictCode.DISABLED: KeyState.DISABLED,
}
