"""Advisory service: finds the keys that need attention, from records and observations."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Final, NamedTuple

from keyauthority.clock import monotonic
from keyauthority.decision import first_end_of
from keyauthority.model import UNRESTRICTED, AdvisoryType, Key, KeyKind, KeyMode
from keyauthority.requests import AdvisoryQuery
from keyauthority.results import Advisory, Page
from keyauthority_server.metering.observing import is_canary
from keyauthority_server.services.context import ServiceContext
from keyauthority_server.services.principal import Principal
from keyauthority_server.store.sql.queries.advisories import (
    IN_USE,
    OLD_AFTER,
    OVERLAP_ENDING,
    AdvisorySearch,
    list_advisories,
)
from keyauthority_server.store.types import KeyObservations, Scope, Sighting, SightingCause

DORMANT_AFTER: Final = timedelta(days=90)
EXPIRES_WITHIN: Final = timedelta(days=30)

_NOT_OF_DECOYS: Final = frozenset(
    {AdvisoryType.DORMANT, AdvisoryType.NEVER_USED, AdvisoryType.OLD}
    | {AdvisoryType.UNUSED_PERMISSIONS}
)
"""A decoy lies where no client should use it, so its rest is no cause."""
_COUNTED_AT_ONCE: Final = 1_000
_REST: Final = 50  # times the duration of a page of `count`, so that it takes 2 % of a core


class Advisories:
    """Lists and counts advisories."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context

    async def list(
        self, caller: Principal, query: AdvisoryQuery, content: bytes, page_size: int
    ) -> Page[Advisory]:
        """Return a page of the advisories in the caller's scope.

        `content` is the fingerprint of the query. NotFound for a project that is not in scope.
        """
        pages = self._context.pages
        cursor = pages.decode(caller.actor, content, query.page_token)
        await self._context.require_visible(caller, query.project_id, "")
        found, next_cursor = await self._page(query, caller.scope, cursor, page_size)
        return Page(tuple(found), pages.encode(caller.actor, content, next_cursor))

    async def count(self) -> Mapping[AdvisoryType, int]:
        """Return the number of advisories of each type, zeros included; it rests between pages."""
        numbers = Counter(dict.fromkeys(AdvisoryType, 0))
        cursor: int | None = 0
        while cursor is not None:
            started = monotonic()
            found, cursor = await self._page(AdvisoryQuery(), None, cursor, _COUNTED_AT_ONCE)
            numbers.update(advisory.type for advisory in found)
            if cursor is not None:
                await asyncio.sleep(_REST * (monotonic() - started))
        return numbers

    async def _page(
        self, query: AdvisoryQuery, scope: Scope, cursor: int, limit: int
    ) -> tuple[Sequence[Advisory], int | None]:
        wanted = AdvisorySearch(
            types=frozenset(query.types or AdvisoryType),
            dormant_after=DORMANT_AFTER if query.dormant_after is None else query.dormant_after,
            expires_within=EXPIRES_WITHIN if query.expires_within is None else query.expires_within,
            now=self._context.clock.now(),
        )
        judge = partial(advisories_of, wanted=wanted)
        return await self._context.store.query(
            list_advisories, query.project_id or None, scope, wanted, judge, cursor, limit
        )


class _Cause(NamedTuple):
    """The cause of an advisory on a key."""

    since_time: datetime
    sighting: Sighting | None = None
    permissions: tuple[str, ...] = ()


def advisories_of(
    key: Key, observed: KeyObservations, wanted: AdvisorySearch
) -> Sequence[Advisory]:
    """Return the advisories on a key in the order of their types; an ended key has one at most.

    The counts are those of sightings; usage is not counted.
    """
    return list(_advisories_of(key, observed, wanted))


def _advisories_of(
    key: Key, observed: KeyObservations, wanted: AdvisorySearch
) -> Iterator[Advisory]:
    ended = first_end_of(key, wanted.now) is not None
    unwanted = _NOT_OF_DECOYS if is_canary(key) else frozenset[AdvisoryType]()
    for type_, (find, remedy) in _RULES.items():
        if type_ not in wanted.types or ended is not (type_ is AdvisoryType.USED_AFTER_END):
            continue
        if type_ in unwanted:
            continue
        cause = find(key, observed, wanted)
        if cause is not None:
            sighting = cause.sighting
            yield Advisory(
                type=type_,
                access_key=key.access_key,
                project_id=key.project_id,
                since_time=cause.since_time,
                last_time=sighting.last_time if sighting else key.last_used_time,
                count=sighting.number if sighting else 0,
                last_peer=sighting.last_peer if sighting else "",
                permissions=cause.permissions,
                remedy=remedy,
            )


def _dormant(key: Key, _: KeyObservations, wanted: AdvisorySearch) -> _Cause | None:
    used = key.last_used_time
    return _Cause(used) if used and used <= wanted.now - wanted.dormant_after else None


def _never_used(key: Key, _: KeyObservations, wanted: AdvisorySearch) -> _Cause | None:
    if key.last_used_time or key.create_time > wanted.now - wanted.dormant_after:
        return None
    return _Cause(key.create_time)


def _expiring(key: Key, _: KeyObservations, wanted: AdvisorySearch) -> _Cause | None:
    if not key.expire_time or key.expire_time > wanted.now + wanted.expires_within:
        return None
    if key.supersede_time:
        return None
    return _Cause(max(key.create_time, key.expire_time - wanted.expires_within))


def _overlap_ending(key: Key, observed: KeyObservations, wanted: AdvisorySearch) -> _Cause | None:
    if not key.supersede_time or key.supersede_time > wanted.now + OVERLAP_ENDING:
        return None
    sighting = observed.sightings.get(SightingCause.OVERLAP)
    if sighting is None or sighting.last_time < wanted.now - IN_USE:
        return None
    since = observed.rotate_time or sighting.first_time
    if sighting.last_time < since:  # reported after the rotation, and made before
        return None
    return _Cause(since, sighting)


def _used_after_end(key: Key, observed: KeyObservations, wanted: AdvisorySearch) -> _Cause | None:
    end, sighting = first_end_of(key, wanted.now), observed.sightings.get(SightingCause.END)
    if end is None or sighting is None or sighting.period != end:
        return None
    return _Cause(end, sighting)


def _canary_used(key: Key, observed: KeyObservations, _: AdvisorySearch) -> _Cause | None:
    sighting = observed.sightings.get(SightingCause.CANARY)
    if sighting is None or not is_canary(key):
        return None
    return _Cause(sighting.first_time, sighting)


def _unrestricted(key: Key, _: KeyObservations, __: AdvisorySearch) -> _Cause | None:
    if key.mode is not KeyMode.LIVE or key.kind is not KeyKind.SECRET:
        return None
    return _Cause(key.create_time) if key.restrictions == UNRESTRICTED else None


def _old(key: Key, _: KeyObservations, wanted: AdvisorySearch) -> _Cause | None:
    if key.create_time > wanted.now - OLD_AFTER or key.supersede_time:
        return None
    return _Cause(key.create_time)


def _unused_permissions(
    key: Key, observed: KeyObservations, wanted: AdvisorySearch
) -> _Cause | None:
    start = wanted.now - wanted.dormant_after
    if key.create_time > start:
        return None
    days = {
        permission: observed.permission_days.get(permission, key.create_time)
        for permission in key.permissions
    }
    first_day = start.replace(hour=0, minute=0, second=0, microsecond=0)
    unused = {
        one: day
        for one, day in days.items()
        if day < first_day or one not in observed.permission_days
    }
    if not unused:
        return None
    return _Cause(max(key.create_time, *unused.values()), permissions=tuple(unused))


_RULES: Final[
    Mapping[
        AdvisoryType, tuple[Callable[[Key, KeyObservations, AdvisorySearch], _Cause | None], str]
    ]
] = {
    AdvisoryType.DORMANT: (
        _dormant,
        "Revoke the key if no service needs it. Disable it first if you are not sure.",
    ),
    AdvisoryType.NEVER_USED: (
        _never_used,
        "Revoke the key, or find out why the service that it was made for does not use it.",
    ),
    AdvisoryType.EXPIRING: (
        _expiring,
        "Rotate the key or extend its expiry, if services still use it.",
    ),
    AdvisoryType.OVERLAP_ENDING_IN_USE: (
        _overlap_ending,
        "Give the successor's secret to the service at the last address before the overlap ends.",
    ),
    AdvisoryType.USED_AFTER_END: (
        _used_after_end,
        "Find the service at the last address. Give it another key, or remove the old one from it.",
    ),
    AdvisoryType.CANARY_USED: (
        _canary_used,
        "Assume that its place was read: replace the keys kept there, and find the caller.",
    ),
    AdvisoryType.UNRESTRICTED: (
        _unrestricted,
        "Add restrictions, such as allowed_ips, or replace the key by a RESTRICTED one.",
    ),
    AdvisoryType.OLD: (_old, "Rotate the key."),
    AdvisoryType.UNUSED_PERMISSIONS: (
        _unused_permissions,
        "Remove these permissions, or make the service name the ones it needs in Verify.",
    ),
}
"""The rule of each type, and its remedy, in the order of the types."""
