"""Verify and GetProjectId: verdicts on tokens, each on one revision of the store.

The steps are those of the contract: parse the token, find the record, compare the digest, decide,
spend from the limits. Then the verdict is counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple, Self

from keyauthority.clock import LONG_AGO
from keyauthority.decision import build_verdict, denied, has_limits, state_of
from keyauthority.errors import ErrorReason, error
from keyauthority.model import (
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
from keyauthority_server.metering.limits import Limit, limits_of, with_limits
from keyauthority_server.metering.observing import is_observed
from keyauthority_server.metering.usage import Meter
from keyauthority_server.records import ANY, CachedKey, ReadOptions
from keyauthority_server.services.cached_verification import VERIFY_RIGHT, CachedVerification
from keyauthority_server.services.context import ServiceContext
from keyauthority_server.services.presented_tokens import PresentedToken, presented
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
from keyauthority_server.store.sql.queries.lists import characters_of_lists
from keyauthority_server.store.types import Scope, Snapshots, StoredKey

_VERIFY: Final = (VERIFY_RIGHT,)
BATCH_CHARACTERS_MAX: Final = 8 << 20  # of the lists of the keys that one batch reads
_UNMEASURED: Final = 32  # keys: their longest lists together are within that bound
_PARTIAL_ATTEMPTS: Final = 2  # at cache and read on one revision; a full read costs more
_ABSENT: Final = Key(
    access_key="",
    project_id="00000000-0000-4000-8000-000000000000",
    mode=KeyMode.LIVE,
    kind=KeyKind.SECRET,
    create_time=LONG_AGO,
    update_time=LONG_AGO,
    revision=0,
)
"""Stands in for a key that does not exist, so that its evaluation takes the same steps."""
_VERDICTS: Final = {
    KeyState.ACTIVE: VerdictCode.VALID,
    KeyState.DISABLED: VerdictCode.DISABLED,
    KeyState.EXPIRED: VerdictCode.EXPIRED,
    KeyState.SUPERSEDED: VerdictCode.SUPERSEDED,
    KeyState.REVOKED: VerdictCode.REVOKED,
}
_ANSWERS_PROJECT: Final = frozenset({KeyState.ACTIVE, KeyState.DISABLED, KeyState.EXPIRED})


class _Evaluation(NamedTuple):
    """A verdict before its limits are applied."""

    query: VerifyQuery
    verdict: Verdict
    stored: StoredKey | None
    """The key that the token matched."""
    limits: tuple[Limit, ...]
    """Limits to spend from; empty for a denial, unless `explain` asks for every failing check."""

    @property
    def spend(self) -> Spend:
        """The units to spend from the limits; for a denial the counters are only read."""
        return Spend(
            tuple(limit.counter for limit in self.limits),
            self.query.cost,
            dry_run=self.verdict.code is not VerdictCode.VALID,
        )


class _Subject(NamedTuple):
    """A token, and the records on which it is evaluated."""

    token: PresentedToken | None
    """None if the token is malformed, or was verified before."""
    stored: StoredKey | None
    project: Project | None
    verified: bool = False

    @property
    def access_key(self) -> str:
        """The access key to read; empty if nothing need be read."""
        return self.token.token.access_key if self.token else ""


class _State(NamedTuple):
    """The records of one call, all as of one revision."""

    head: Revision
    subjects: Sequence[_Subject]
    operator: StoredKey | None
    operator_verified: bool

    @classmethod
    def of(
        cls,
        snapshots: Snapshots,
        subjects: Sequence[_Subject],
        names: Sequence[str],
        *,
        operator_verified: bool,
    ) -> Self:
        """Return the state with the records read for the access keys in `names`."""
        found = dict(zip(names, snapshots.pairs, strict=True))
        filled = [
            _Subject(subject.token, *found[subject.access_key])
            if subject.token and subject.access_key in found
            else subject
            for subject in subjects
        ]
        return cls(snapshots.head, filled, snapshots.operator, operator_verified)


class Verification:
    """Verifies tokens."""

    def __init__(self, context: ServiceContext, counters: Counters, meter: Meter) -> None:
        self.slices = TimeSlices()
        self._context = context
        self._counters = counters
        self._meter = meter

    async def verify(
        self, credential: Credential | CertificateIdentity, query: VerifyQuery
    ) -> Verdict:
        """Return the verdict on one token, with key, project and caller of one revision.

        Raises StoreUnavailable if the key's limits cannot be applied.
        """
        return (await self.verify_batch(credential, (query,)))[0]

    async def verify_batch(
        self, credential: Credential | CertificateIdentity, queries: Sequence[VerifyQuery]
    ) -> Sequence[Verdict]:
        """Return the verdicts on many tokens, all on one revision; limits apply in their order."""
        if self._meter.is_full:
            await self._meter.room()
        evaluations, parsers = [], memoized_parsers()
        with self.slices.begin() as slices:
            state = await self._state(credential, queries, slices)
            now = self._context.clock.now()
            caller = self._context.authenticate_stored(
                state.operator, credential, _VERIFY, now, verified=state.operator_verified
            )
            self._check(caller, queries, state.head)
            scope = caller.scope
            for query, subject in zip(queries, state.subjects, strict=True):
                evaluations.append(self._evaluate(query, subject, scope, state.head, now, parsers))
                if slices.are_over():
                    await slices.pause()
        return await self._apply_limits(evaluations, now, credential.address)

    def cached(self) -> CachedVerification:
        """Return a verifier that uses cached records only."""
        return CachedVerification(self._context, self._counters, self._meter)

    async def project_id(self, secret_key: str, access_key: str, peer: str = "") -> str:
        """Return the project of the key with this secret, else raise Unauthenticated.

        `peer` is the address of the caller.
        """
        records = self._context.records
        cached = records.verified(secret_key) if records.catch_up() else None
        key = cached.stored.key if cached else _ABSENT
        # An unknown token takes the steps of a cached key that is refused, and the reverse.
        if not self._answers_project(key, access_key, peer) or cached is None:
            presented = await self._context.present(secret_key)
            if presented is None or self._context.fails_outline_check(presented):
                raise invalid_credential()
            if cached and self._context.has_outlines:
                raise invalid_credential()
            snapshots = await records.read((presented.token.access_key,), None)
            stored, _ = snapshots.pairs[0]
            matches = self._context.digest_matches(stored, presented)
            if not matches or stored is None or cached:
                raise invalid_credential()
            key = stored.key
            if not self._answers_project(key, access_key, peer):
                raise invalid_credential()
        return key.project_id

    def _answers_project(self, key: Key, access_key: str, peer: str) -> bool:
        """True if a verified token gets its project in the answer.

        Counts the presentation of a key with observations: who finds a decoy may try it here.
        """
        if key.kind in (KeyKind.PUBLISHABLE, KeyKind.OPERATOR):
            return False
        now = self._context.clock.now()
        state, is_named = state_of(key, now), access_key in ("", key.access_key)
        if is_observed(key, now):
            code = _VERDICTS[state] if is_named else VerdictCode.WRONG_ACCESS_KEY
            self._meter.count(key, code, 0, now, peer=peer)
        return is_named and state in _ANSWERS_PROJECT

    async def _state(
        self,
        credential: Credential | CertificateIdentity,
        queries: Sequence[VerifyQuery],
        slices: Slices,
    ) -> _State:
        """Take verified tokens from the cache, and read the rest as of the same revision.

        With a local store, other tokens are first compared with an outline of their key, so that
        an UNKNOWN token costs the same whether or not the key exists.
        """
        records, options = self._context.records, _read_options(queries)
        for _ in range(_PARTIAL_ATTEMPTS):
            current = records.catch_up(options)
            operator = self._context.cached_operator(credential) if current else None
            position = records.position
            subjects, names = await self._cached_subjects(
                credential, operator, queries, slices, current=current
            )
            if not names and (operator or operator_of(credential) is None):
                if records.position == position:
                    stored = operator.stored if operator else None
                    return _State(position, subjects, stored, operator_verified=True)
                continue
            await self._require_bounded(names)
            snapshots = await records.read(names, operator or operator_of(credential), options)
            if snapshots.head == position or _reads_every_key(subjects, names):
                verified = operator is not None and snapshots.operator is operator.stored
                return _State.of(snapshots, subjects, names, operator_verified=verified)
        subjects = []
        for query in queries:  # the log moved during every attempt: read all keys at once
            presented = await self._context.present(query.secret_key)
            subjects.append(_Subject(presented, None, None))
            await slices.pause()
        names = list({subject.access_key: None for subject in subjects if subject.access_key})
        await self._require_bounded(names)
        snapshots = await records.read(names, operator_of(credential), options)
        return _State.of(snapshots, subjects, names, operator_verified=False)

    async def _require_bounded(self, names: Sequence[str]) -> None:
        """Raise ResourceExhausted if the records with these access keys take too much memory.

        Decoded they take up to ten times the bytes of their lists.
        """
        if len(names) <= _UNMEASURED:
            return
        if await self._context.store.query(characters_of_lists, names) > BATCH_CHARACTERS_MAX:
            raise error(
                ErrorReason.MESSAGE_TOO_LARGE,
                "the keys of this batch have more than 8 MiB of lists: verify fewer at once",
            )

    async def _cached_subjects(
        self,
        credential: Credential | CertificateIdentity,
        operator: CachedKey | None,
        queries: Sequence[VerifyQuery],
        slices: Slices,
        *,
        current: bool,
    ) -> tuple[list[_Subject], list[str]]:
        """Return the tokens with their cached records, and the access keys to read."""
        scope = scope_of(credential, operator.stored if operator else None)
        use_cache = current and (
            operator is not None or isinstance(credential, CertificateIdentity)
        )
        subjects, names, unparsed = list[_Subject](), dict[str, None](), dict[int, str]()
        outlines = dict[str, StoredKey]()

        def to_read(token: PresentedToken | None) -> _Subject:
            if token and not self._context.fails_outline_check(token, scope, outlines):
                names[token.token.access_key] = None
            return _Subject(token, None, None)

        for query in queries:
            text = query.secret_key
            subject = self._cached_subject(text, scope) if use_cache else None
            if subject is None:
                subject = to_read(presented(text))
                if subject.token is None:
                    unparsed[len(subjects)] = text
            subjects.append(subject)
            if slices.are_over():
                await slices.pause()
        if unparsed:
            found = await self._context.imported.find(list(unparsed.values()), slices)
            for index, text in unparsed.items():
                subjects[index] = to_read(found.get(text))
                if slices.are_over():
                    await slices.pause()
        return subjects, list(names)

    def _cached_subject(self, secret_key: str, scope: Scope) -> _Subject | None:
        """Return a token verified before, if the caller may verify its key and it is cached."""
        cached = self._context.records.verified(secret_key)
        if cached is None or cached.stored.key.kind is KeyKind.OPERATOR:
            return None
        project_id = cached.stored.key.project_id
        project = self._context.records.project(project_id)
        if project is None or (scope is not None and project_id not in scope):
            return None
        return _Subject(None, cached.stored, project, verified=True)

    def _check(self, caller: Principal, queries: Sequence[VerifyQuery], head: Revision) -> None:
        """Raise the error that rejects the whole call: missing rights before preconditions."""
        for query in queries:
            if query.include_record:
                caller.require("keys:read")
        for query in queries:
            if query.log_id and query.log_id != self._context.log_id:
                raise error(
                    ErrorReason.LOG_MISMATCH, "log_id names another log; discard the revision"
                )
            if query.at_least_revision > head:
                raise error(
                    ErrorReason.REVISION_AHEAD, "at_least_revision is beyond the newest change"
                )

    def _evaluate(
        self,
        query: VerifyQuery,
        subject: _Subject,
        scope: Scope,
        head: Revision,
        now: datetime,
        parsers: FactParsers,
    ) -> _Evaluation:
        log_id = self._context.log_id
        token, stored, project, verified = subject
        if token is None and not verified:
            verdict = denied(VerdictCode.MALFORMED, query, head, log_id)
            return _Evaluation(query, verdict, None, ())
        # Every token takes all steps: a skipped check would reveal by timing which check failed.
        if token is not None:
            verified = self._context.digest_matches(stored, token)
        record = _ABSENT if stored is None else stored.key
        visible = record.kind is not KeyKind.OPERATOR and (
            scope is None or record.project_id in scope
        )
        if not verified or not visible or stored is None:
            verdict = denied(VerdictCode.UNKNOWN, query, head, log_id)
            return _Evaluation(query, verdict, None, ())
        key = stored.key
        verdict = build_verdict(key, project, query, now, head, log_id, parsers)
        limits: tuple[Limit, ...] = ()
        if has_limits(key, project) and (verdict.valid or query.explain):
            limits = limits_of(stored, project, now)
        return _Evaluation(query, verdict, stored, limits)

    async def _apply_limits(
        self, evaluations: Sequence[_Evaluation], now: datetime, peer: str
    ) -> Sequence[Verdict]:
        """Spend from all limits in one transaction, count the verdicts, and return them."""
        spends = [evaluation.spend for evaluation in evaluations if evaluation.limits]
        results = self._counters.spend_now(spends) if spends else ()
        if results is None:
            results = await self._counters.spend(spends)
        counters = iter(results)
        verdicts = []
        with self.slices.begin() as slices:
            for evaluation in evaluations:
                query, verdict, stored, limits = evaluation
                if limits:
                    verdict = with_limits(verdict, limits, next(counters), explain=query.explain)
                if stored is not None:
                    self._meter.count(stored.key, verdict.code, query.cost, now, query.facts, peer)
                verdicts.append(verdict)
                if slices.are_over():
                    await slices.pause()
        return verdicts


def _reads_every_key(subjects: Sequence[_Subject], names: Sequence[str]) -> bool:
    """True if `names` has the key of every well-formed token, so that the cache adds none."""
    read = {"", *names}
    return not any(subject.verified or subject.access_key not in read for subject in subjects)


def _read_options(queries: Sequence[VerifyQuery]) -> ReadOptions:
    """Return options under which one read serves all queries."""
    at_least = max((query.at_least_revision for query in queries), default=0)
    record = any(query.include_record for query in queries)
    return ReadOptions(at_least, bookkeeping=record) if at_least or record else ANY
