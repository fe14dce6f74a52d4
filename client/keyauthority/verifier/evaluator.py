"""Sans-IO core of both verifiers: local verdicts, or None where the server must be called.

It returns None on first use of a token, where a limit must be spent from, where a newer revision or
the records are requested, and when the watch has been silent for too long.
"""

from __future__ import annotations

from collections import deque
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final

from keyauthority.decision import build_verdict, decide, denied, explain
from keyauthority.model import App, Key, Project, Verdict, VerdictCode
from keyauthority.permissions import is_concrete
from keyauthority.requests import VerifyQuery
from keyauthority.restrictions import REFERRER_MAX, canonical_sha1, parse_address
from keyauthority.results import WatchUpdate
from keyauthority.token import parse
from keyauthority.verifier.key_cache import CachedKey, Counted, Evaluation, KeyCache, Position
from keyauthority.verifier.usage_buffer import Count, Report, UsageBuffer
from keyauthority.watch import ResumePoint, WatchSession

_PERMISSIONS_MAX: Final = 100
_PERMISSIONS_KNOWN: Final = 1_024  # distinct permissions that are checked once; some 400 KB
_TEXT_MAX: Final = 255  # characters; longer texts go to the server, which rejects them
_COST_MAX: Final = 2**31  # sums of costs stay within int64
_IMPORTED_MAX: Final = 512  # characters of a token of an import set
_SILENT_SECONDS: Final = 1.0  # between two calls to an authority that does not respond

_NEVER: Final = float("-inf")
_HOUR: Final = timedelta(hours=1)


class LocalEvaluator:
    """Evaluates queries on the records of a watch.

    Thread-safe, except that only one thread may call `apply`.
    """

    def __init__(self, keys: int, bound: float, static: float | None = None) -> None:
        """Cache at most `keys` keys and use them for `bound` seconds after the last update.

        `static` replaces `bound` while the authority does not respond.
        """
        self.fresh_until = _NEVER
        """Time at which the records exceed `bound`, in seconds of `monotonic`."""
        self.cache = KeyCache(keys)
        self.usage = UsageBuffer()
        self._bound = bound
        self._static = static
        self._silent_until = _NEVER
        self._session = WatchSession()

    def age(self, now: float) -> timedelta | None:
        """Return the maximum age of the records; None before the first update."""
        if self.fresh_until == _NEVER:
            return None
        return timedelta(seconds=max(now + self._bound - self.fresh_until, 0.0))

    def forget(self) -> None:
        """Drop all records and start again without a revision."""
        self.fresh_until = _NEVER
        self.cache.clear()
        self._session.forget()

    def reports(self) -> deque[Report]:
        """Return the pending reports, oldest first; the caller pops each one it has sent."""
        return self.usage.reports(self._session.to_server_time)

    def resume(self, now: float) -> ResumePoint:
        """Return the arguments of the WatchChanges stream that is opened now."""
        return self._session.resume(now)

    def apply(self, update: WatchUpdate, now: float) -> bool:
        """Apply an update of the watch; return False if the stream must be reopened."""
        session = self._session
        delta = session.receive(update, now)
        if delta.reset:
            self.fresh_until = _NEVER
            self.cache.clear()
        self.cache.apply(delta.changes, session.revision, session.log_id)
        self.fresh_until = session.fresh_until(self._bound)
        return not update.resync and not session.due(now)

    def evaluate(
        self, query: VerifyQuery, now: float, until: float | None = None
    ) -> Verdict | None:
        """Return the verdict, or None if only the server can give it.

        The records are used before `until`, in seconds of `monotonic` (default: `fresh_until`).
        """
        cache = self.cache
        position = cache.position  # before any read of its records
        if (
            query.include_record  # changes do not carry all fields of a record
            or query.at_least_revision > position.revision
            or query.log_id not in ("", position.log_id)
            or not _well_formed(query)
        ):
            return None
        is_fresh = now < (self.fresh_until if until is None else until)
        token_hash = cache.token_hash(query.secret_key)
        cached = cache.find(token_hash)
        if cached is not None:
            return self._evaluate_key(cached, query, position, now) if is_fresh else None
        if parse(query.secret_key) is None and not self._may_be_imported(query, is_fresh):
            code = VerdictCode.MALFORMED
        elif is_fresh and cache.is_unknown(token_hash):
            code = VerdictCode.UNKNOWN
        else:
            return None
        return denied(code, query, position.revision, position.log_id)

    def _may_be_imported(self, query: VerifyQuery, is_fresh: bool) -> bool:
        """True if the text may be a token of an imported key, which only the server can tell."""
        text = query.secret_key
        if not text or len(text) > _IMPORTED_MAX or not text.isascii():
            return False
        return not is_fresh or self.cache.imports is not False

    def fail_static_cached(self, query: VerifyQuery, now: float) -> Verdict | None:
        """Return the fail-static verdict while the authority is known not to respond, else None.

        Once a second one caller gets None and retries the authority on behalf of all.
        """
        if self._silent_until == _NEVER:
            return None
        if now >= self._silent_until:
            self._silent_until = now + _SILENT_SECONDS
            return None
        return self.evaluate(query, now, self._static_until())

    def after_failure(self, query: VerifyQuery, now: float) -> Verdict | None:
        """Return the fail-static verdict after a failed call; None if there is none."""
        self._silent_until = now + _SILENT_SECONDS
        return self.evaluate(query, now, self._static_until())

    def learn(self, query: VerifyQuery, verdict: Verdict) -> None:
        """Cache the records of a server's verdict."""
        self._silent_until = _NEVER
        if verdict.code is VerdictCode.MALFORMED:
            return
        token = parse(query.secret_key)  # None for an imported key, whose token does not name it
        access_key = token.access_key if token else verdict.access_key
        self.cache.learn(self.cache.token_hash(query.secret_key), access_key, verdict)

    def _static_until(self) -> float:
        return _NEVER if self._static is None else self.fresh_until - self._bound + self._static

    def _evaluate_key(
        self, cached: CachedKey, query: VerifyQuery, position: Position, now: float
    ) -> Verdict | None:
        key, project, evaluation = cached.key, cached.project.record, cached.evaluation
        time = now + self._session.ahead
        if time < self._session.floor:
            time = self._session.floor
        if (
            evaluation is None
            or evaluation.key is not key
            or evaluation.project is not project
            or not evaluation.since <= time < evaluation.until
        ):
            evaluation = self._begin(key, project, now)
            cached.evaluation = evaluation
        facts = query.facts
        code = decide(key, project, facts, evaluation.time)
        if evaluation.limited and (code is VerdictCode.VALID or query.explain):
            return None  # a denied verdict spends nothing
        counted = evaluation.counted.get(code)
        if counted is None or counted.position is not position:
            counted = _counted(evaluation, code, query, position)
        self.usage.add(counted.counter, query.cost if code is VerdictCode.VALID else 0, now, facts)
        if query.explain:
            return counted.verdict._replace(failed=explain(key, project, facts, evaluation.time))
        return counted.verdict

    def _begin(self, key: Key, project: Project | None, now: float) -> Evaluation:
        """Return an evaluation from now to the next end of the key, or of the hour."""
        time = self._session.server_time(now)
        ends = [_hour(time) + _HOUR]
        ends += [
            end for end in (key.expire_time, key.supersede_time) if end is not None and end > time
        ]
        until = min(ends).timestamp()
        return Evaluation(key, project, time, self._session.floor, until)


def _counted(
    evaluation: Evaluation, code: VerdictCode, query: VerifyQuery, position: Position
) -> Counted:
    """Return the verdict on a query at a position, and store it with the evaluation."""
    earlier, (revision, log_id) = evaluation.counted.get(code), position
    if earlier is None:
        key, project, time = evaluation.key, evaluation.project, evaluation.time
        plain = query._replace(explain=False)
        verdict = build_verdict(key, project, plain, time, revision, log_id)
        counter = Count(key, code, _hour(time))
    else:
        verdict = earlier.verdict._replace(revision=revision, log_id=log_id)
        counter = earlier.counter
    counted = evaluation.counted[code] = Counted(position, verdict, counter)
    return counted


def _hour(time: datetime) -> datetime:
    return time.replace(minute=0, second=0, microsecond=0)


_is_concrete: Final = lru_cache(_PERMISSIONS_KNOWN)(is_concrete)


def _well_formed(query: VerifyQuery) -> bool:
    """Return True if the server would accept the arguments; otherwise it reports the error."""
    access_key, project_id, _, permissions, client_ip, referrer, app, target = query.facts
    for permission in permissions:
        if len(permission) > _TEXT_MAX or not _is_concrete(permission):
            return False
    return (
        0 <= query.cost <= _COST_MAX
        and query.at_least_revision >= 0
        and len(permissions) <= _PERMISSIONS_MAX
        and (not client_ip or parse_address(client_ip) is not None)
        and (not access_key or _is_text(access_key))
        and (not project_id or _is_text(project_id))
        and (not referrer or _is_text(referrer, REFERRER_MAX))
        and (app is None or _is_app(app))
        and (target is None or (_is_text(target.service) and _is_text(target.method)))
    )


def _is_app(app: App) -> bool:
    if app.android_sha1:
        try:
            canonical_sha1(app.android_sha1)
        except ValueError:
            return False
    return all(map(_is_text, (app.android_package, app.android_sha1, app.ios_bundle_id)))


def _is_text(text: str, length: int = _TEXT_MAX) -> bool:
    return len(text) <= length and text.isprintable()
