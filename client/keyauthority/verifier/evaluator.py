"""Sans-IO core of both verifiers: local verdicts, or None where the server must be called.

It returns None on first use of a token, where a limit must be charged, where a newer revision or
the records are requested, and when the watch has been silent for too long.
"""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from keyauthority.decision import build_verdict, denied, has_limits
from keyauthority.model import Facts, Verdict, VerdictCode
from keyauthority.permissions import is_concrete
from keyauthority.requests import VerifyQuery
from keyauthority.restrictions import REFERRER_MAX, canonical_sha1, check_ip
from keyauthority.results import WatchUpdate
from keyauthority.token import parse
from keyauthority.verifier.key_cache import CachedKey, Generation, KeyCache
from keyauthority.verifier.usage_buffer import Count, Report, UsageBuffer
from keyauthority.watch import ResumePoint, WatchSession

_PERMISSIONS_MAX: Final = 100
_TEXT_MAX: Final = 255  # characters; longer texts go to the server, which rejects them
_COST_MAX: Final = 2**31  # sums of costs stay within int64
_SILENT_SECONDS: Final = 1.0  # between two calls to an authority that does not respond

_NEVER: Final = float("-inf")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_HOUR: Final = timedelta(hours=1)


class Answer(NamedTuple):
    """A cached verdict, valid until a time unless the watch advances first."""

    verdict: Verdict
    until: float
    """Server time, in seconds since the Unix epoch."""
    counter: Count
    cost: int


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
        self.cache: KeyCache[Answer] = KeyCache(keys)
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
        session, ahead = self._session, self._session.ahead
        delta = session.receive(update, now)
        if delta.reset:
            self.fresh_until = _NEVER
            self.cache.clear()
        if session.ahead < ahead:  # answers may have been given past their `until`
            self.cache.drop_answers()
        self.cache.apply(delta.changes, session.revision, session.log_id)
        self.fresh_until = session.fresh_until(self._bound)
        return not update.resync and not session.due(now)

    def cached_verdict(
        self, secret_key: str, arguments: tuple[object, ...], now: float
    ) -> Verdict | None:
        """Return the verdict of an earlier identical query, if still valid; the fast path.

        `arguments` are the fields of `VerifyQuery` except the token, flattened.
        """
        if now >= self.fresh_until:
            return None
        cache = self.cache
        answer = cache.generation.answers.get((cache.token_hash(secret_key), arguments))
        if answer is None or now + self._session.ahead >= answer.until:
            return None
        self.usage.add(answer.counter, answer.cost, now)
        return answer.verdict

    def evaluate(self, query: VerifyQuery, now: float) -> Verdict | None:
        """Return the verdict, or None if only the server can give it."""
        return self._evaluate(query, now, self.fresh_until)

    def fail_static_cached(self, query: VerifyQuery, now: float) -> Verdict | None:
        """Return the fail-static verdict while the authority is known not to respond, else None.

        Once a second one caller gets None and retries the authority on behalf of all.
        """
        if self._silent_until == _NEVER:
            return None
        if now >= self._silent_until:
            self._silent_until = now + _SILENT_SECONDS
            return None
        return self._evaluate(query, now, self._static_until())

    def after_failure(self, query: VerifyQuery, now: float) -> Verdict | None:
        """Return the fail-static verdict after a failed call; None if there is none."""
        self._silent_until = now + _SILENT_SECONDS
        return self._evaluate(query, now, self._static_until())

    def learn(self, query: VerifyQuery, verdict: Verdict) -> None:
        """Cache the records of a server's verdict."""
        self._silent_until = _NEVER
        token = parse(query.secret_key)
        if token is not None:
            self.cache.learn(self.cache.token_hash(query.secret_key), token.access_key, verdict)

    def _static_until(self) -> float:
        return _NEVER if self._static is None else self.fresh_until - self._bound + self._static

    def _evaluate(self, query: VerifyQuery, now: float, until: float) -> Verdict | None:
        generation = self.cache.generation  # before any read of its records
        if (
            query.include_record  # changes do not carry all fields of a record
            or query.at_least_revision > generation.revision
            or query.log_id not in ("", generation.log_id)
            or not _well_formed(query)
        ):
            return None
        token_hash = self.cache.token_hash(query.secret_key)
        cached = self.cache.find(token_hash)
        if cached is not None:
            if now >= until:
                return None
            return self._evaluate_key(cached, token_hash, query, generation, now)
        if parse(query.secret_key) is None:
            code = VerdictCode.MALFORMED
        elif now < until and self.cache.is_unknown(token_hash):
            code = VerdictCode.UNKNOWN
        else:
            return None
        return denied(code, query, generation.revision, generation.log_id)

    def _evaluate_key(
        self,
        cached: CachedKey,
        token_hash: bytes,
        query: VerifyQuery,
        generation: Generation[Answer],
        now: float,
    ) -> Verdict | None:
        key, project = cached.key, cached.project.record
        time = self._session.server_time(now)
        verdict = build_verdict(key, project, query, time, generation.revision, generation.log_id)
        if has_limits(key, project) and (verdict.valid or query.explain):
            return None  # a denied verdict is not charged
        hour = time.replace(minute=0, second=0, microsecond=0)
        ends = [hour + _HOUR]
        ends += [
            end for end in (key.expire_time, key.supersede_time) if end is not None and end > time
        ]
        answer = Answer(
            verdict=verdict,
            until=(min(ends) - _EPOCH).total_seconds(),
            counter=Count(key.access_key, verdict.code, hour),
            cost=query.cost if verdict.valid else 0,
        )
        if len(query.facts.referrer) <= _TEXT_MAX:
            arguments = (*query.facts, *query[2:])
            self.cache.store_answer(generation, (token_hash, arguments), answer)
        self.usage.add(answer.counter, answer.cost, now)
        return verdict


def _well_formed(query: VerifyQuery) -> bool:
    """Return True if the server would accept the arguments; otherwise it reports the error."""
    facts = query.facts
    try:
        if facts.client_ip:
            check_ip(facts.client_ip)
        if facts.app is not None and facts.app.android_sha1:
            canonical_sha1(facts.app.android_sha1)
    except ValueError:
        return False
    return (
        0 <= query.cost <= _COST_MAX
        and query.at_least_revision >= 0
        and len(facts.permissions) <= _PERMISSIONS_MAX
        and all(map(is_concrete, facts.permissions))
        and facts.referrer.isprintable()
        and len(facts.referrer) <= REFERRER_MAX
        and all(text.isprintable() and len(text) <= _TEXT_MAX for text in _texts(facts))
    )


def _texts(facts: Facts) -> list[str]:
    texts = [facts.access_key, facts.project_id, facts.client_ip, *facts.permissions]
    if facts.app is not None:
        app = facts.app
        texts += [app.android_package, app.android_sha1, app.ios_bundle_id]
    if facts.api_target is not None:
        texts += [facts.api_target.service, facts.api_target.method]
    return texts
