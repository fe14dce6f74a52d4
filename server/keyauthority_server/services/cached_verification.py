"""Verification from memory alone, without a coroutine: the path of most calls.

Every case that is not VALID before limits is left to `verification`. One transaction spends
from the limits of all calls that arrived together.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple

from keyauthority.decision import decide, has_limits
from keyauthority.model import Facts, Project, Revision, VerdictCode
from keyauthority.requests import VerifyQuery
from keyauthority_server.metering.limits import LimitsInForce, denials_of
from keyauthority_server.metering.usage import Meter
from keyauthority_server.records import CachedKey
from keyauthority_server.services.context import NOT_CACHED, ServiceContext
from keyauthority_server.services.principal import Credential
from keyauthority_server.services.time_slices import Slices
from keyauthority_server.store.counters import Counters, Spend, SpendResult
from keyauthority_server.store.types import Scope

VERIFY_RIGHT: Final = "keys:verify"


class PendingSpend(NamedTuple):
    """A key that is VALID if its limits have room."""

    cached: CachedKey
    limits: LimitsInForce
    cost: int
    now: datetime
    facts: Facts
    peer: str
    """The address of the caller."""
    revision: Revision
    """The revision of the verdict."""


SpentVerdict = tuple[VerdictCode, SpendResult]
"""The verdict on a key with limits, and the states of their counters."""


class CachedVerification:
    """Verifies tokens by turn of the event loop.

    The log head and the clock are read once a turn, after the turn's calls have arrived, so the
    state is fresh enough for each of them.
    """

    def __init__(self, context: ServiceContext, counters: Counters, meter: Meter) -> None:
        self._context = context
        self._counters = counters
        self._meter = meter
        self._now: datetime | None = None
        self._credential: Credential | None = None
        self._is_authorized = False
        self._scope: Scope = None
        self.revision = Revision(0)
        """The revision of the turn's verdicts."""

    def begin(self) -> None:
        """Begin a turn."""
        self._now = None

    def verify(
        self, credential: Credential, secret_key: str, facts: Facts, cost: int
    ) -> CachedKey | PendingSpend | None:
        """Return the key of a token whose verdict is VALID, and count the verdict.

        A key with limits is returned as a `PendingSpend`, to pass to `spend`. None if the verdict
        is another or the records are not cached: then call `Verification.verify`. Raises
        the same errors.
        """
        now = None if self._meter.is_full else self._authorized(credential)
        if now is None or (found := self._valid(secret_key, facts, now)) is None:
            return None
        cached, project = found
        key = cached.stored.key
        if has_limits(key, project):
            limits = cached.limits
            if not isinstance(limits, LimitsInForce) or not limits.hold(project, now):
                limits = cached.limits = LimitsInForce.of(cached.stored, project, now)
            return PendingSpend(cached, limits, cost, now, facts, credential.address, self.revision)
        self._meter.count(key, VerdictCode.VALID, cost, now, facts, credential.address)
        return cached

    async def verify_all(
        self, credential: Credential, queries: Sequence[VerifyQuery], slices: Slices
    ) -> tuple[Sequence[CachedKey], Revision] | None:
        """Return the keys of tokens whose verdicts are VALID, with the revision of all verdicts.

        The verdicts are made in one turn, and counted in slices. None, with nothing counted, if a
        verdict is another, a key has limits, a record is not cached, or the first slice is over:
        then call `Verification.verify_batch`. Raises the same errors.
        """
        self.begin()
        now = None if self._meter.is_full else self._authorized(credential)
        if now is None:
            return None
        valid = []
        for query in queries:
            if (
                query.explain
                or query.include_record
                or query.at_least_revision
                or query.log_id
                or slices.are_over()
                or (found := self._valid(query.secret_key, query.facts, now)) is None
                or has_limits(found[0].stored.key, found[1])
            ):
                return None
            valid.append(found[0])
        revision = self.revision  # of this call: others begin turns during a pause
        for cached, query in zip(valid, queries, strict=True):
            key, peer = cached.stored.key, credential.address
            self._meter.count(key, VerdictCode.VALID, query.cost, now, query.facts, peer)
            if slices.are_over():
                await slices.pause()
        return valid, revision

    def _authorized(self, credential: Credential) -> datetime | None:
        """Return the time of the turn's verdicts; None if the caller or the log is not cached."""
        records, now = self._context.records, self._now
        if now is None or self.revision != records.position:
            if not records.catch_up():
                return None
            now = self._now = self._context.clock.now()
            self.revision = records.position
            self._credential = None
        if credential is not self._credential:
            self._credential = credential
            scope = self._context.authenticate_cached(credential, VERIFY_RIGHT, now)
            self._is_authorized = scope is not NOT_CACHED
            self._scope = None if scope is NOT_CACHED else scope
        return now if self._is_authorized else None

    def _valid(
        self, secret_key: str, facts: Facts, now: datetime
    ) -> tuple[CachedKey, Project] | None:
        """Return the key of a token and its project if the verdict is VALID before limits."""
        records, scope = self._context.records, self._scope
        cached = records.verified(secret_key)
        if cached is None:
            return None
        key = cached.stored.key
        project = records.project(key.project_id)
        if (
            project is None
            or (scope is not None and key.project_id not in scope)
            or decide(key, project, facts, now) is not VerdictCode.VALID
        ):
            return None
        return cached, project

    def spend_now(self, pending: Sequence[PendingSpend]) -> Sequence[SpentVerdict] | None:
        """Do as `spend` at once; None, with nothing spent, if that would wait.

        Raises the same errors.
        """
        results = self._counters.spend_now(_spends(pending))
        return None if results is None else self._counted(pending, results)

    async def spend(self, pending: Sequence[PendingSpend]) -> Sequence[SpentVerdict]:
        """Spend from all limits in one transaction, count the verdicts, and return them.

        Raises StoreUnavailable.
        """
        return self._counted(pending, await self._counters.spend(_spends(pending)))

    def _counted(
        self, pending: Sequence[PendingSpend], results: Sequence[SpendResult]
    ) -> Sequence[SpentVerdict]:
        verdicts = []
        for (cached, limits, cost, now, facts, peer, _), result in zip(
            pending, results, strict=True
        ):
            denials = denials_of(limits.limits, result)
            code = denials[0] if denials else VerdictCode.VALID
            self._meter.count(cached.stored.key, code, cost, now, facts, peer)
            verdicts.append((code, result))
        return verdicts


def _spends(pending: Sequence[PendingSpend]) -> list[Spend]:
    return [Spend(spend.limits.counters, spend.cost) for spend in pending]
