"""Verify and GetProjectId: what a token is worth, on one state of the store.

The steps are those of the contract: read the token, find the record, compare the digest, decide,
draw the limits. Then it is counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

from keyauthority.decision import denied, end_of, judged, limited, state_of
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
from keyauthority.requests import Presentation
from keyauthority.restrictions import DIRECT, FactParsers, memoized_parsers
from keyauthority.token import Token, parse
from keyauthority_server.authority.callers import (
    Caller,
    Certified,
    Credential,
    invalid_credential,
    operator_of,
)
from keyauthority_server.authority.desk import Desk
from keyauthority_server.authority.time_slices import TimeSlices
from keyauthority_server.bounded import weight_of
from keyauthority_server.limits import Limit, limits_of, with_limits
from keyauthority_server.store.counters import Counters, Draw
from keyauthority_server.store.values import ANY, Held, Scope, Wanted
from keyauthority_server.usage import Meter

_VERIFY: Final = ("keys:verify",)
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
    """A verdict before its limits are drawn; it may be kept, so no token is in it."""

    cost: int
    explain: bool
    include_record: bool
    verdict: Verdict
    held: Held | None
    """The key whose token was right."""
    project: Project | None
    limits: tuple[Limit, ...]
    """What to draw; nothing for a denial, unless all that fails is to be told."""

    @property
    def draw(self) -> Draw:
        """What it takes from its limits; a call that is denied already only looks."""
        return Draw(
            tuple(limit.counter for limit in self.limits),
            self.cost,
            take=self.verdict.code is VerdictCode.VALID,
        )


class Lasting(NamedTuple):
    """What a VALID rests on: it is the verdict again while no change was made, before `end`.

    Whether there is room in the limits is found out each time.
    """

    revision: Revision
    end: datetime
    pepper_version: int
    key: Key
    cost: int
    limited: Judged | None
    """What came before the draw; None without a limit."""

    @property
    def weight(self) -> int:
        """What it weighs in memory; see `bounded`."""
        return weight_of(self.key)


class Verified(NamedTuple):
    """A verdict, and what it rests on; None unless that is all that the same call may rest on."""

    verdict: Verdict
    lasting: Lasting | None


class Verification:
    """Judges tokens."""

    def __init__(self, desk: Desk, counters: Counters, meter: Meter) -> None:
        self.slices = TimeSlices()
        self._desk = desk
        self._counters = counters
        self._meter = meter

    async def verify(
        self, credential: Credential | Certified, presentation: Presentation
    ) -> Verified:
        """Return the verdict on one token. Key, project and caller are read as one state.

        Raises StoreUnavailable if limits of the key cannot be drawn.
        """
        token = parse(presentation.secret_key)
        sight = await self._desk.looks.look(
            token.access_key if token else None, operator_of(credential), _wanted((presentation,))
        )
        now = self._desk.clock.now()
        caller = self._desk.admitted(sight.operator, credential, _VERIFY, now)
        self._check(caller, (presentation,), sight.head)
        one = self._judge(
            presentation, token, sight.held, sight.project, caller.scope, sight.head, now
        )
        verdict = (await self._drawn((one,), now))[0]
        return Verified(verdict, self._lasting(one, sight.operator, caller))

    def again(self, all_lasting: Sequence[Lasting]) -> bool:
        """Verify keys without limits once more, at the cost of reading where the log ends.

        True if the verdicts are all VALID as they were, and counted; False if that has to be found
        out by verifying.
        """
        now = self._desk.clock.now()
        if not self._stand(all_lasting, now):
            return False
        for one in all_lasting:
            self._meter.count(one.key, VerdictCode.VALID, one.cost, now)
        return True

    async def drawn_again(self, lasting: Lasting) -> Verdict | None:
        """Verify a key with limits once more, at the cost of a draw.

        None if that has to be found out by verifying. Raises what `verify` does.
        """
        now, one = self._desk.clock.now(), lasting.limited
        if one is None or one.held is None or not self._stand((lasting,), now):
            return None
        drawing = one._replace(limits=limits_of(one.held, one.project, now))
        return (await self._drawn((drawing,), now))[0]

    async def verify_batch(
        self, credential: Credential | Certified, presentations: Sequence[Presentation]
    ) -> Sequence[Verified]:
        """Return the verdicts on many tokens, all on one state; limits are drawn in their order."""
        tokens = [parse(one.secret_key) for one in presentations]
        names = [token.access_key if token else "" for token in tokens]
        distinct = list(dict.fromkeys(names))  # each is read once: repeating a token would multiply
        sights = await self._desk.looks.look_many(  # the time by which a read tells if it exists
            distinct, operator_of(credential), _wanted(presentations)
        )
        found = dict(zip(distinct, sights.pairs, strict=True))
        now = self._desk.clock.now()
        caller = self._desk.admitted(sights.operator, credential, _VERIFY, now)
        self._check(caller, presentations, sights.head)
        all_judged, parsers, scope = [], memoized_parsers(), caller.scope
        with self.slices.begin() as slices:
            for presentation, token, name in zip(presentations, tokens, names, strict=True):
                held, project = found[name]
                one = self._judge(
                    presentation, token, held, project, scope, sights.head, now, parsers
                )
                all_judged.append(one)
                await slices.pause()
        verdicts = await self._drawn(all_judged, now)
        return [
            Verified(verdict, self._lasting(one, sights.operator, caller))
            for verdict, one in zip(verdicts, all_judged, strict=True)
        ]

    async def project_id(self, secret_key: str, access_key: str) -> str:
        """Return the project of the key that a secret proves, else raise Unauthenticated."""
        token = parse(secret_key)
        if token is None or token.kind in (KeyKind.PUBLISHABLE, KeyKind.OPERATOR):
            raise invalid_credential()
        sight = await self._desk.looks.look(token.access_key, None)
        if not self._desk.proves(sight.held, token, secret_key) or sight.held is None:
            raise invalid_credential()
        key = sight.held.key
        if access_key and access_key != key.access_key:
            raise invalid_credential()
        if state_of(key, self._desk.clock.now()) not in _ANSWERS_PROJECT:
            raise invalid_credential()
        return key.project_id

    def _stand(self, all_lasting: Sequence[Lasting], now: datetime) -> bool:
        revision, version = all_lasting[0].revision, self._desk.peppers.current
        if not self._desk.looks.stands_at(revision):
            return False
        for one in all_lasting:
            if one.revision != revision or now >= one.end or one.pepper_version != version:
                return False
        return True

    def _lasting(self, one: Judged, operator: Held | None, caller: Caller) -> Lasting | None:
        """Return what a VALID rests on, None if on more than records that no change was made to."""
        held, current = one.held, self._desk.peppers.current
        if (
            held is None
            or not one.verdict.valid
            or one.include_record  # it shows the last use, which no change tells of
            or held.pepper_version != current  # an older digest is to be made anew
            or (operator is not None and operator.pepper_version != current)
        ):
            return None
        end = min(end_of(held.key), end_of(caller.key))
        return Lasting(
            Revision(one.verdict.revision),
            end,
            current,
            held.key,
            one.cost,
            one if one.limits else None,
        )

    def _check(self, caller: Caller, presentations: Sequence[Presentation], head: Revision) -> None:
        """Raise what refuses the call: a right that any of them lacks before the state of any."""
        for one in presentations:
            if one.include_record:
                caller.require("keys:read")
        for one in presentations:
            if one.log_id and one.log_id != self._desk.log_id:
                raise error(ErrorReason.LOG_MISMATCH, "log_id is not the log of this authority")
            if one.at_least_revision > head:
                raise error(
                    ErrorReason.REVISION_AHEAD, "at_least_revision is beyond the newest change"
                )

    def _judge(
        self,
        presentation: Presentation,
        token: Token | None,
        held: Held | None,
        project: Project | None,
        scope: Scope,
        head: Revision,
        now: datetime,
        parsers: FactParsers = DIRECT,
    ) -> Judged:
        log_id = self._desk.log_id
        told = (presentation.cost, presentation.explain, presentation.include_record)
        if token is None:
            verdict = denied(VerdictCode.MALFORMED, presentation, head, log_id)
            return Judged(*told, verdict, None, None, ())
        # All of it for every token: a check that is left out would tell by its time which failed.
        proven = self._desk.proves(held, token, presentation.secret_key)
        record = _ABSENT if held is None else held.key
        visible = record.kind is not KeyKind.OPERATOR and (
            scope is None or record.project_id in scope
        )
        if not proven or not visible or held is None:
            verdict = denied(VerdictCode.UNKNOWN, presentation, head, log_id)
            return Judged(*told, verdict, None, None, ())
        key = held.key
        verdict = judged(key, project, presentation, now, head, log_id, parsers)
        limits: tuple[Limit, ...] = ()
        if limited(key, project) and (verdict.valid or presentation.explain):
            limits = limits_of(held, project, now)
        return Judged(*told, verdict, held, project, limits)

    async def _drawn(self, all_judged: Sequence[Judged], now: datetime) -> Sequence[Verdict]:
        """Draw the limits of all in one transaction, count them, and return the verdicts."""
        draws = [one.draw for one in all_judged if one.limits]
        levels = iter(await self._counters.draw(draws) if draws else ())
        verdicts = []
        for one in all_judged:
            verdict = one.verdict
            if one.limits:
                verdict = with_limits(verdict, one.limits, next(levels), explain=one.explain)
            if one.held is not None:
                self._meter.count(one.held.key, verdict.code, one.cost, now)
            verdicts.append(verdict)
        return verdicts


def _wanted(presentations: Sequence[Presentation]) -> Wanted:
    """Return what the state has to be good for that all of them are judged on."""
    at_least = max((one.at_least_revision for one in presentations), default=0)
    record = any(one.include_record for one in presentations)
    return Wanted(at_least, bookkeeping=record) if at_least or record else ANY
