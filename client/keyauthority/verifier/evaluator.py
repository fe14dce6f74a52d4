"""The sans-IO core of both verifiers: what can be judged in this process, and what the server must.

It says None where it cannot tell: on first sight of a token, where a limit has to be drawn, where a
newer state or the records are asked for, and when the watch has been silent for too long.
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
from keyauthority.verifier.key_cache import CachedKey, Generation, Memory
from keyauthority.verifier.usage_buffer import Count, Report, UsageBuffer
from keyauthority.watch import ResumePoint, WatchSession

_PERMISSIONS_MAX: Final = 100
_TEXT_MAX: Final = 255  # characters; what is longer is for the server to refuse
_COST_MAX: Final = 2**31  # sums of it can be reported, however many there are
_SILENT_SECONDS: Final = 1.0  # in which an authority that did not answer is not asked again

_NEVER: Final = float("-inf")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_HOUR: Final = timedelta(hours=1)


class Answer(NamedTuple):
    """A verdict on one question, which holds until a moment unless the watch moves on."""

    verdict: Verdict
    until: float
    """In the server's seconds since the Unix epoch, whatever its clock does."""
    counter: Count
    cost: int


class LocalEvaluator:
    """Judges by what a watch tells. Threads may do all else while one calls `take`."""

    def __init__(self, keys: int, bound: float, static: float | None = None) -> None:
        """What is known is believed for `bound` seconds; for `static` if nobody answers."""
        self.fresh_until = _NEVER
        """When what is known becomes too old, in this process's seconds."""
        self.memory: Memory[Answer] = Memory(keys)
        self.tally = UsageBuffer()
        self._bound = bound
        self._static = static
        self._silent_until = _NEVER
        self._session = WatchSession()

    def age(self, at: float) -> timedelta | None:
        """Return how old what is known may be; None if nothing is."""
        if self.fresh_until == _NEVER:
            return None
        return timedelta(seconds=max(at + self._bound - self.fresh_until, 0.0))

    def forget(self) -> None:
        """Begin anew: the authority is not where it was."""
        self.fresh_until = _NEVER
        self.memory.clear()
        self._session.forget()

    def reports(self) -> deque[Report]:
        """Return what is to be reported, oldest first; the caller pops what he has reported."""
        return self.tally.reports(self._session.moment)

    def resume(self, at: float) -> ResumePoint:
        """Return what the stream that is opened now has to ask for."""
        return self._session.resume(at)

    def take(self, update: WatchUpdate, at: float) -> bool:
        """Take in a message of the watch; False if the stream should be opened anew."""
        session, ahead = self._session, self._session.ahead
        told = session.receive(update, at)
        if told.reset:
            self.fresh_until = _NEVER
            self.memory.clear()
        if session.ahead < ahead:  # an answer that held until a moment may have held to its end
            self.memory.renew()
        self.memory.apply(told.changes, session.revision, session.log_id)
        self.fresh_until = session.fresh_until(self._bound)
        return not update.resync and not session.due(at)

    def again(self, secret_key: str, question: tuple[object, ...], at: float) -> Verdict | None:
        """Return what was answered before, if it still holds: what most verifications come to.

        The question is what `VerifyQuery` holds beside the token, all of it side by side.
        """
        if at >= self.fresh_until:
            return None
        memory = self.memory
        answer = memory.state.answers.get((memory.name(secret_key), question))
        if answer is None or at + self._session.ahead >= answer.until:
            return None
        self.tally.add(answer.counter, answer.cost, at)
        return answer.verdict

    def judge(self, asked: VerifyQuery, at: float) -> Verdict | None:
        """Return the verdict, or None if only the server can tell."""
        return self._judge(asked, at, self.fresh_until)

    def instead(self, asked: VerifyQuery, at: float) -> Verdict | None:
        """Return the verdict in place of an authority that has just failed to answer, else None.

        It is asked again once in a while: who finds that it is time does so for all.
        """
        if self._silent_until == _NEVER:
            return None
        if at >= self._silent_until:
            self._silent_until = at + _SILENT_SECONDS
            return None
        return self._judge(asked, at, self._static_until())

    def unanswered(self, asked: VerifyQuery, at: float) -> Verdict | None:
        """Return the verdict although the authority did not answer; None if nobody can tell."""
        self._silent_until = at + _SILENT_SECONDS
        return self._judge(asked, at, self._static_until())

    def learn(self, asked: VerifyQuery, verdict: Verdict) -> None:
        """Take in what the server has answered, records included."""
        self._silent_until = _NEVER
        token = parse(asked.secret_key)
        if token is not None:
            self.memory.learn(self.memory.name(asked.secret_key), token.access_key, verdict)

    def _static_until(self) -> float:
        return _NEVER if self._static is None else self.fresh_until - self._bound + self._static

    def _judge(self, asked: VerifyQuery, at: float, until: float) -> Verdict | None:
        state = self.memory.state  # before anything that is of it
        if (
            asked.include_record  # changes do not tell all of a record
            or asked.at_least_revision > state.revision
            or asked.log_id not in ("", state.log_id)
            or not _well_formed(asked)
        ):
            return None
        name = self.memory.name(asked.secret_key)
        known = self.memory.find(name)
        if known is not None:
            return self._judged(known, name, asked, state, at) if at < until else None
        if parse(asked.secret_key) is None:
            code = VerdictCode.MALFORMED
        elif at < until and self.memory.is_refused(name):
            code = VerdictCode.UNKNOWN
        else:
            return None
        return denied(code, asked, state.revision, state.log_id)

    def _judged(
        self,
        known: CachedKey,
        name: bytes,
        asked: VerifyQuery,
        state: Generation[Answer],
        at: float,
    ) -> Verdict | None:
        key, project = known.key, known.project.record
        now = self._session.server_time(at)
        verdict = build_verdict(key, project, asked, now, state.revision, state.log_id)
        if has_limits(key, project) and (verdict.valid or asked.explain):
            return None  # what is denied already draws nothing
        hour = now.replace(minute=0, second=0, microsecond=0)
        moments = [hour + _HOUR]
        moments += [
            time
            for time in (key.expire_time, key.supersede_time)
            if time is not None and time > now
        ]
        answer = Answer(
            verdict=verdict,
            until=(min(moments) - _EPOCH).total_seconds(),
            counter=Count(key.access_key, verdict.code, hour),
            cost=asked.cost if verdict.valid else 0,
        )
        if len(asked.facts.referrer) <= _TEXT_MAX:
            question = (*asked.facts, *asked[2:])
            self.memory.answered(state, (name, question), answer)
        self.tally.add(answer.counter, answer.cost, at)
        return verdict


def _well_formed(asked: VerifyQuery) -> bool:
    """True if the server would certainly not refuse the arguments; it says what is wrong."""
    facts = asked.facts
    try:
        if facts.client_ip:
            check_ip(facts.client_ip)
        if facts.app is not None and facts.app.android_sha1:
            canonical_sha1(facts.app.android_sha1)
    except ValueError:
        return False
    return (
        0 <= asked.cost <= _COST_MAX
        and asked.at_least_revision >= 0
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
