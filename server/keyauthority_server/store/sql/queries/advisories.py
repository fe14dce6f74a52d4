"""Pages of advisories: candidates found by their columns, judged with what was observed of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from keyauthority.convert import ADVISORY_TYPE_TO_PROTO
from keyauthority.model import AdvisoryType, Key
from keyauthority.requests import KeyFilter
from keyauthority.results import Advisory
from keyauthority_server.store.rows import Row, Rows, characters
from keyauthority_server.store.sql.integrity import stored_key
from keyauthority_server.store.sql.queries.lists import PAGE_CHARACTERS, SCAN_ROWS, scan, search
from keyauthority_server.store.sql.queries.observations import (
    observations_of,
    permissions_observed_since,
)
from keyauthority_server.store.sql.row_codec import INTEGER_MAX, MICROSECOND, microseconds
from keyauthority_server.store.sql.statements import EVIDENCE_WIDTH
from keyauthority_server.store.types import KeyObservations, Scope

CANDIDATES: Final = 1_000  # keys judged in one call: some 30 ms of the reader's thread
CANDIDATES_AT_ONCE: Final = 250
OLD_AFTER: Final = timedelta(days=365)
OVERLAP_ENDING: Final = timedelta(hours=24)
IN_USE: Final = timedelta(hours=1)

_TYPE_BITS: Final = 4  # of a cursor, below the revision that created the key
_TYPE_MASK: Final = (1 << _TYPE_BITS) - 1
_DAY: Final = timedelta(days=1) // MICROSECOND

Judge = Callable[[Key, KeyObservations], Sequence[Advisory]]
"""Returns the advisories of a key in the order of their types, those that count usage without."""


class AdvisorySearch(NamedTuple):
    """The advisories to find, and the windows of their types."""

    types: frozenset[AdvisoryType]
    dormant_after: timedelta
    expires_within: timedelta
    now: datetime


_ENDED: Final = "(revoke_time IS NOT NULL OR supersede_time <= ? OR expire_time <= ?)"
_NOT_ENDED: Final = (
    "revoke_time IS NULL AND (supersede_time IS NULL OR supersede_time > ?)"
    " AND (expire_time IS NULL OR expire_time > ?)"
)
_SIGHTED: Final = (
    "EXISTS (SELECT 1 FROM sighting"
    " WHERE sighting.access_key = key.access_key AND sighting.cause = ?)"
)
# Each finds the keys that may have an advisory of the type; the judge decides.
_MAY_HAVE: Final[Mapping[AdvisoryType, str]] = {
    AdvisoryType.DORMANT: "last_used_time <= ?",
    AdvisoryType.NEVER_USED: "(last_used_time IS NULL AND create_time <= ?)",
    AdvisoryType.EXPIRING: "(expire_time <= ? AND supersede_time IS NULL)",
    AdvisoryType.OVERLAP_ENDING_IN_USE: "(supersede_time <= ? AND last_used_time >= ?)",
    AdvisoryType.CANARY_USED: _SIGHTED,
    AdvisoryType.UNRESTRICTED: "(mode = 'live' AND kind = 'secret' AND restrictions IS NULL)",
    AdvisoryType.OLD: "(create_time <= ? AND supersede_time IS NULL)",
    AdvisoryType.UNUSED_PERMISSIONS: "(permissions IS NOT NULL AND create_time <= ?)",
}
_COUNTED: Final = frozenset(
    {AdvisoryType.EXPIRING, AdvisoryType.UNRESTRICTED, AdvisoryType.OLD}
    | {AdvisoryType.UNUSED_PERMISSIONS}
)
"""The types whose count is of usage; the others count sightings, or nothing."""

# A sum of counts may exceed 64 bits, which SQLite refuses: each half is summed.
_PRESENTED: Final = (
    "SELECT usage.access_key, sum(usage.count >> 32), sum(usage.count & 4294967295)"
    " FROM requested JOIN key ON key.access_key = requested.value"
    " JOIN usage ON usage.access_key = key.access_key WHERE "
)
_SINCE_DAY: Final = (
    _PRESENTED
    + "usage.granularity = 'day' AND usage.bucket_time >= ?"
    + " GROUP BY usage.access_key"
)
# From the hour in which the expiry came near, or the key was created.
_SINCE_EXPIRING: Final = (
    _PRESENTED
    + "usage.granularity = 'hour' AND usage.bucket_time + 3600000000 >"
    + " CASE WHEN key.create_time > key.expire_time - ?"
    + " THEN key.create_time ELSE key.expire_time - ? END GROUP BY usage.access_key"
)


def list_advisories(
    rows: Rows,
    project_id: str | None,
    scope: Scope,
    wanted: AdvisorySearch,
    judge: Judge,
    after: int,
    limit: int,
) -> tuple[list[Advisory], int | None]:
    """Return up to `limit` advisories by creation of their keys and type, and the next cursor.

    `project_id` None means the whole scope. The cursor names the key and type of the last advisory:
    pass it as `after` (0 for the first page). None marks the last page. The time of a call is
    bounded: it may return fewer advisories than exist, even zero, with a cursor.
    """
    where = search(project_id, scope, KeyFilter(), wanted.now)
    wanted = _observable(rows, wanted)
    if where is None or not wanted.types:
        return [], None
    condition, values = _candidates(wanted)
    where = where._replace(conditions=(condition,), values=values)
    resumed, done = after >> _TYPE_BITS, after & _TYPE_MASK
    found, bound = scan(rows, where, resumed - 1 if done else resumed, SCAN_ROWS, limit + 1)
    page: list[Advisory] = []
    cursor, judged, length = after, 0, 0
    for keys in _chunks(found):
        observed = _observations(rows, [key for _, key in keys], wanted)
        for created_revision, key in keys:
            for advisory in judge(key, observed[key.access_key]):
                number = ADVISORY_TYPE_TO_PROTO[advisory.type]
                if created_revision == resumed and number <= done:
                    continue
                length += sum(map(len, advisory.permissions))
                if len(page) == limit or (page and length > PAGE_CHARACTERS):
                    return _counted(rows, page, wanted), cursor
                page.append(advisory)
                cursor = created_revision << _TYPE_BITS | number
            cursor = created_revision << _TYPE_BITS
        judged += len(keys)
        if judged >= CANDIDATES:
            return _counted(rows, page, wanted), cursor
    return _counted(rows, page, wanted), None if bound is None else bound << _TYPE_BITS


def _observable(rows: Rows, wanted: AdvisorySearch) -> AdvisorySearch:
    """Leave out UNUSED_PERMISSIONS while its window is longer than permissions were observed."""
    since = permissions_observed_since(rows)
    if since is None or since <= wanted.now - wanted.dormant_after:
        return wanted
    return wanted._replace(types=wanted.types - {AdvisoryType.UNUSED_PERMISSIONS})


def _candidates(wanted: AdvisorySearch) -> tuple[str, tuple[Any, ...]]:
    """Return the condition of the keys to judge, and its values."""
    now = microseconds(wanted.now)
    idle = microseconds(wanted.now - wanted.dormant_after)
    values: Mapping[AdvisoryType, tuple[Any, ...]] = {
        AdvisoryType.DORMANT: (idle,),
        AdvisoryType.NEVER_USED: (idle,),
        AdvisoryType.EXPIRING: (microseconds(wanted.now + wanted.expires_within),),
        AdvisoryType.OVERLAP_ENDING_IN_USE: (
            microseconds(wanted.now + OVERLAP_ENDING),
            microseconds(wanted.now - IN_USE),
        ),
        AdvisoryType.CANARY_USED: ("canary",),
        AdvisoryType.OLD: (microseconds(wanted.now - OLD_AFTER),),
        AdvisoryType.UNUSED_PERMISSIONS: (idle,),
    }
    types = [type_ for type_ in _MAY_HAVE if type_ in wanted.types]
    conditions = []
    given: list[Any] = []
    if types:
        any_type = " OR ".join(_MAY_HAVE[type_] for type_ in types)
        conditions.append(f"({_NOT_ENDED} AND ({any_type}))")
        given += (now, now, *(value for type_ in types for value in values.get(type_, ())))
    if AdvisoryType.USED_AFTER_END in wanted.types:
        conditions.append(f"({_ENDED} AND {_SIGHTED})")
        given += (now, now, "end")
    return f"({' OR '.join(conditions)})", tuple(given)


def _chunks(found: Iterable[Row]) -> Iterator[list[tuple[int, Key]]]:
    """Yield keys with the revisions that created them, some at once and of bounded size."""
    keys: list[tuple[int, Key]] = []
    length = 0
    for created_revision, *row in found:
        keys.append((created_revision, stored_key(row).key))
        length += characters(row[:-EVIDENCE_WIDTH])
        if len(keys) == CANDIDATES_AT_ONCE or length > PAGE_CHARACTERS:
            yield keys
            keys, length = [], 0
    if keys:
        yield keys


def _observations(
    rows: Rows, keys: Sequence[Key], wanted: AdvisorySearch
) -> Mapping[str, KeyObservations]:
    return observations_of(
        rows,
        [key.access_key for key in keys],
        {key.access_key: key.successor_access_key for key in keys if key.successor_access_key},
        permissions=AdvisoryType.UNUSED_PERMISSIONS in wanted.types,
    )


def _counted(rows: Rows, advisories: Sequence[Advisory], wanted: AdvisorySearch) -> list[Advisory]:
    """Return the advisories with their counts of usage."""
    of_days: defaultdict[int, list[str]] = defaultdict(list)
    expiring: list[str] = []
    for advisory in advisories:
        if advisory.type is AdvisoryType.EXPIRING:
            expiring.append(advisory.access_key)
        elif advisory.type in _COUNTED:
            of_days[_first_day(advisory)].append(advisory.access_key)
    counts: dict[tuple[str, int], int] = {}
    for day, names in of_days.items():
        for access_key, number in _presented(rows, _SINCE_DAY, names, day):
            counts[access_key, day] = number
    within = wanted.expires_within // MICROSECOND
    hours = dict(_presented(rows, _SINCE_EXPIRING, expiring, within, within))
    return [
        replace(advisory, count=hours.get(advisory.access_key, 0))
        if advisory.type is AdvisoryType.EXPIRING
        else replace(advisory, count=counts.get((advisory.access_key, _first_day(advisory)), 0))
        if advisory.type in _COUNTED
        else advisory
        for advisory in advisories
    ]


def _first_day(advisory: Advisory) -> int:
    """Return the first day whose usage an advisory counts: all days, or the day of its start."""
    if advisory.type is not AdvisoryType.UNUSED_PERMISSIONS:
        return 0
    time = microseconds(advisory.since_time)
    return time - time % _DAY


def _presented(
    rows: Rows, statement: str, access_keys: Sequence[str], *values: int
) -> Iterator[tuple[str, int]]:
    if not access_keys:
        return
    requested = rows.values_table(access_keys)
    for access_key, high, low in rows.each(requested.table + statement, (requested.value, *values)):
        yield access_key, min((int(high) << 32) + int(low), INTEGER_MAX)
