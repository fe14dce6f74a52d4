"""Verify and GetProjectId: what a token is worth, on one state of the store.

The steps are those of the contract: read the token, find the record, compare the digest, decide,
draw the limits. Then it is counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple, Self

from keyauthority.decision import build_verdict, decide, denied, has_limits, state_of
from keyauthority.errors import ErrorReason, error
from keyauthority.model import (
    Facts,
    Key,
    KeyKind,
    KeyMode,
    KeyState,
    Project,
    Revision,
    Verdict,
    VerdictCode,
)
from keyauthority.requests import VerifyQuery
from keyauthority.restrictions import FactParsers, memoized_parsers
from keyauthority.token import Token, parse
from keyauthority_server.metering.limits import Limit, limits_of, with_limits
from keyauthority_server.metering.usage import Meter
from keyauthority_server.records import CachedKey
from keyauthority_server.services.context import NOT_CACHED, NotCached, ServiceContext
from keyauthority_server.services.principal import (
    CertificateIdentity,
    Credential,
    Principal,
    invalid_credential,
    operator_of,
    scope_of,
)
from keyauthority_server.services.time_slices import Slices, TimeSlices
from keyauthority_server.store.counters import Counters, Spend
from keyauthority_server.store.types import ANY, ReadOptions, Scope, Snapshots, StoredKey

_VERIFY: Final = ("keys:verify",)
_ATTEMPTS_IN_PARTS: Final = 2  # of one revision; then as a whole, which costs more
_LONG_AGO: Final = datetime.min.replace(tzinfo=UTC)
_ABSENT: Final = Key(
    access_key="",
    project_id="00000000-0000-4000-8000-000000000000",
    mode=KeyMode.LIVE,
    kind=KeyKind.SECRET,
    create_time=_LONG_AGO,
    update_time=_LONG_AGO,
    revision=0,
)
"""Stands for a key that does not exist, so that it is judged as one that does."""
_ANSWERS_PROJECT: Final = frozenset({KeyState.ACTIVE, KeyState.DISABLED, KeyState.EXPIRED})


class Judged(NamedTuple):
    """A verdict before its limits are drawn."""

    cost: int
    explain: bool
    include_record: bool
    verdict: Verdict
    stored: StoredKey | None
    """The key whose token was right."""
    project: Project | None
    limits: tuple[Limit, ...]
    """What to draw; nothing for a denial, unless all that fails is to be told."""

    @property
    def draw(self) -> Spend:
        """What it takes from its limits; a call that is denied already only looks."""
        return Spend(
            tuple(limit.counter for limit in self.limits),
            self.cost,
            take=self.verdict.code is VerdictCode.VALID,
        )


class _Subject(NamedTuple):
    """A token, and the record that it is judged on."""

    token: Token | None
    """None if it is malformed, or has proven its key before."""
    stored: StoredKey | None
    project: Project | None
    proven: bool = False


class _State(NamedTuple):
    """What a call is judged on: one state of the store."""

    head: Revision
    subjects: Sequence[_Subject]
    operator: StoredKey | None
    operator_proven: bool

    @classmethod
    def of(
        cls,
        snapshots: Snapshots,
        subjects: Sequence[_Subject],
        names: Sequence[str],
        *,
        operator_proven: bool,
    ) -> Self:
        """Return the state in which the keys of these names were read."""
        found = dict(zip(names, snapshots.pairs, strict=True))
        filled = [
            _Subject(one.token, *found[one.token.access_key])
            if one.token and one.token.access_key in found
            else one
            for one in subjects
        ]
        return cls(snapshots.head, filled, snapshots.operator, operator_proven)


class CachedVerification:
    """Judges tokens from memory alone, within turns of the event loop.

    The way of most calls, without a coroutine. The head of the log and the clock are read once a
    turn, after its calls have arrived: each of them began before, so the state is not too old for
    any.
    """

    def __init__(self, context: ServiceContext, meter: Meter) -> None:
        self._context = context
        self._meter = meter
        self._now: datetime | None = None
        self._credential: Credential | None = None
        self._scope: Scope | NotCached = NOT_CACHED
        self.revision = Revision(0)
        """What the verdicts of the turn are judged on."""

    def begin(self) -> None:
        """Begin a turn."""
        self._now = None

    def verify(
        self, credential: Credential, secret_key: str, facts: Facts, cost: int
    ) -> CachedKey | None:
        """Return the key of a token that is VALID, and count that.

        None for all that is not VALID, has limits or is not in memory: `Verification.verify` has to
        find out. Raises what it does.
        """
        records = self._context.records
        now = self._now
        if now is None or self.revision != records.position:
            if not records.is_current():
                return None
            now = self._now = self._context.clock.now()
            self.revision = records.position
            self._credential = None
        if credential is not self._credential:
            self._credential = credential
            self._scope = self._context.admit_cached(credential, _VERIFY[0], now)
        scope = self._scope
        if scope is NOT_CACHED or (cached := records.proven(secret_key)) is None:
            return None
        key = cached.stored.key
        project = records.project(key.project_id)
        if (
            project is None
            or (scope is not None and key.project_id not in scope)
            or has_limits(key, project)
            or decide(key, project, facts, now) is not VerdictCode.VALID
        ):
            return None
        self._meter.count(key, VerdictCode.VALID, cost, now)
        return cached


class Verification:
    """Judges tokens."""

    def __init__(self, context: ServiceContext, counters: Counters, meter: Meter) -> None:
        self.slices = TimeSlices()
        self._context = context
        self._counters = counters
        self._meter = meter

    async def verify(
        self, credential: Credential | CertificateIdentity, presentation: VerifyQuery
    ) -> Verdict:
        """Return the verdict on one token. Key, project and caller are read as one state.

        Raises StoreUnavailable if limits of the key cannot be drawn.
        """
        return (await self.verify_batch(credential, (presentation,)))[0]

    async def verify_batch(
        self, credential: Credential | CertificateIdentity, presentations: Sequence[VerifyQuery]
    ) -> Sequence[Verdict]:
        """Return the verdicts on many tokens, all on one state; limits are drawn in their order."""
        all_judged, parsers = [], memoized_parsers()
        with self.slices.begin() as slices:
            state = await self._state(credential, presentations, slices)
            now = self._context.clock.now()
            caller = self._context.authenticate_snapshot(
                state.operator, credential, _VERIFY, now, proven=state.operator_proven
            )
            self._check(caller, presentations, state.head)
            scope = caller.scope
            for presentation, subject in zip(presentations, state.subjects, strict=True):
                one = self._judge(presentation, subject, scope, state.head, now, parsers)
                all_judged.append(one)
                await slices.pause()
        return await self._drawn(all_judged, now)

    def turn(self) -> CachedVerification:
        """Return what judges tokens from memory."""
        return CachedVerification(self._context, self._meter)

    async def project_id(self, secret_key: str, access_key: str) -> str:
        """Return the project of the key that a secret proves, else raise Unauthenticated."""
        token = parse(secret_key)
        if token is None or token.kind in (KeyKind.PUBLISHABLE, KeyKind.OPERATOR):
            raise invalid_credential()
        records = self._context.records
        cached = records.proven(secret_key) if records.is_current() else None
        stored = cached.stored if cached else None
        if stored is None:
            if self._context.is_unknown(token, secret_key):
                raise invalid_credential()
            snapshots = await records.read((token.access_key,), None)
            stored, _ = snapshots.pairs[0]
            if not self._context.digest_matches(stored, token, secret_key) or stored is None:
                raise invalid_credential()
        key = stored.key
        if access_key and access_key != key.access_key:
            raise invalid_credential()
        if state_of(key, self._context.clock.now()) not in _ANSWERS_PROJECT:
            raise invalid_credential()
        return key.project_id

    async def _state(
        self,
        credential: Credential | CertificateIdentity,
        presentations: Sequence[VerifyQuery],
        slices: Slices,
    ) -> _State:
        """Take from memory what is proven, and read the rest as of the same revision.

        A token that will be UNKNOWN is compared with an outline of its key where that can be read
        at once, so that it costs the same whether the key exists.
        """
        records, wanted = self._context.records, _wanted(presentations)
        for _ in range(_ATTEMPTS_IN_PARTS):
            operator = (
                self._context.cached_operator(credential) if records.is_current(wanted) else None
            )
            position = records.position
            subjects, names = await self._in_parts(
                credential, operator, presentations, slices, current=records.is_current(wanted)
            )
            if not names and (operator or operator_of(credential) is None):
                if records.position == position:
                    stored = operator.stored if operator else None
                    return _State(position, subjects, stored, operator_proven=True)
                continue
            snapshots = await records.read(names, operator or operator_of(credential), wanted)
            if snapshots.head == position or _is_whole(subjects, names):
                proven = operator is not None and snapshots.operator is operator.stored
                return _State.of(snapshots, subjects, names, operator_proven=proven)
        subjects = []
        for one in presentations:  # the log moves in between, again and again: as a whole
            subjects.append(_Subject(parse(one.secret_key), None, None))
            await slices.pause()
        names = list({one.token.access_key: None for one in subjects if one.token is not None})
        snapshots = await records.read(names, operator_of(credential), wanted)
        return _State.of(snapshots, subjects, names, operator_proven=False)

    async def _in_parts(
        self,
        credential: Credential | CertificateIdentity,
        operator: CachedKey | None,
        presentations: Sequence[VerifyQuery],
        slices: Slices,
        *,
        current: bool,
    ) -> tuple[list[_Subject], list[str]]:
        """Return the tokens with what memory knows of them, and the names of the keys to read."""
        scope = scope_of(credential, operator.stored if operator else None)
        remembered = current and (
            operator is not None or isinstance(credential, CertificateIdentity)
        )
        subjects, names = [], dict[str, None]()
        for one in presentations:
            subject = self._proven(one.secret_key, scope) if remembered else None
            if subject is None:
                token = parse(one.secret_key)
                subject = _Subject(token, None, None)
                if token and not self._context.is_unknown(token, one.secret_key, scope):
                    names[token.access_key] = None
            subjects.append(subject)
            await slices.pause()
        return subjects, list(names)

    def _proven(self, secret_key: str, scope: Scope) -> _Subject | None:
        """Return a token that has proven a key which the caller may verify."""
        cached = self._context.records.proven(secret_key)
        if cached is None or cached.stored.key.kind is KeyKind.OPERATOR:
            return None
        project_id = cached.stored.key.project_id
        project = self._context.records.project(project_id)
        if project is None or (scope is not None and project_id not in scope):
            return None
        return _Subject(None, cached.stored, project, proven=True)

    def _check(
        self, caller: Principal, presentations: Sequence[VerifyQuery], head: Revision
    ) -> None:
        """Raise what refuses the call: a right that any of them lacks before the state of any."""
        for one in presentations:
            if one.include_record:
                caller.require("keys:read")
        for one in presentations:
            if one.log_id and one.log_id != self._context.log_id:
                raise error(ErrorReason.LOG_MISMATCH, "log_id is not the log of this authority")
            if one.at_least_revision > head:
                raise error(
                    ErrorReason.REVISION_AHEAD, "at_least_revision is beyond the newest change"
                )

    def _judge(
        self,
        presentation: VerifyQuery,
        subject: _Subject,
        scope: Scope,
        head: Revision,
        now: datetime,
        parsers: FactParsers,
    ) -> Judged:
        log_id = self._context.log_id
        told = (presentation.cost, presentation.explain, presentation.include_record)
        token, stored, project, proven = subject
        if token is None and not proven:
            verdict = denied(VerdictCode.MALFORMED, presentation, head, log_id)
            return Judged(*told, verdict, None, None, ())
        # All of it for every token: a check that is left out would tell by its time which failed.
        if token is not None:
            proven = self._context.digest_matches(stored, token, presentation.secret_key)
        record = _ABSENT if stored is None else stored.key
        visible = record.kind is not KeyKind.OPERATOR and (
            scope is None or record.project_id in scope
        )
        if not proven or not visible or stored is None:
            verdict = denied(VerdictCode.UNKNOWN, presentation, head, log_id)
            return Judged(*told, verdict, None, None, ())
        key = stored.key
        verdict = build_verdict(key, project, presentation, now, head, log_id, parsers)
        limits: tuple[Limit, ...] = ()
        if has_limits(key, project) and (verdict.valid or presentation.explain):
            limits = limits_of(stored, project, now)
        return Judged(*told, verdict, stored, project, limits)

    async def _drawn(self, all_judged: Sequence[Judged], now: datetime) -> Sequence[Verdict]:
        """Draw the limits of all in one transaction, count them, and return the verdicts."""
        draws = [one.draw for one in all_judged if one.limits]
        levels = iter(await self._counters.draw(draws) if draws else ())
        verdicts = []
        for one in all_judged:
            verdict = one.verdict
            if one.limits:
                verdict = with_limits(verdict, one.limits, next(levels), explain=one.explain)
            if one.stored is not None:
                self._meter.count(one.stored.key, verdict.code, one.cost, now)
            verdicts.append(verdict)
        return verdicts


def _is_whole(subjects: Sequence[_Subject], names: Sequence[str]) -> bool:
    """True if every token that can have a key is among those to read."""
    read = {"", *names}
    return not any(
        one.proven or (one.token.access_key if one.token else "") not in read for one in subjects
    )


def _wanted(presentations: Sequence[VerifyQuery]) -> ReadOptions:
    """Return what the state has to be good for that all of them are judged on."""
    at_least = max((one.at_least_revision for one in presentations), default=0)
    record = any(one.include_record for one in presentations)
    return ReadOptions(at_least, bookkeeping=record) if at_least or record else ANY
