"""Storage of observations: sightings of flagged keys, and days of permissions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final

from keyauthority_server.store.rows import Row, Rows, SetStatement
from keyauthority_server.store.sql.row_codec import microseconds, time_from
from keyauthority_server.store.types import (
    KeyObservations,
    Observations,
    PermissionUse,
    Sighting,
    SightingCause,
)

SIGHTINGS_KEPT: Final = 10_000  # of each cause, the newest ones; some 2 MB

# A later period replaces an earlier one, also if it ends before: an expiry may be brought forward.
_ADD: Final = """
    INSERT INTO sighting (access_key, cause, period, count, first_time, last_time, last_peer)
    VALUES (?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (access_key, cause) DO UPDATE SET
        count = CASE WHEN sighting.period <> excluded.period THEN excluded.count
            WHEN sighting.count > 9223372036854775807 - excluded.count THEN 9223372036854775807
            ELSE sighting.count + excluded.count END,
        first_time = CASE WHEN sighting.period <> excluded.period
            OR sighting.first_time > excluded.first_time
            THEN excluded.first_time ELSE sighting.first_time END,
        last_peer = CASE WHEN sighting.period = excluded.period
            AND (sighting.last_time > excluded.last_time OR excluded.last_peer = '')
            THEN sighting.last_peer ELSE excluded.last_peer END,
        last_time = CASE WHEN sighting.period = excluded.period
            AND sighting.last_time > excluded.last_time
            THEN sighting.last_time ELSE excluded.last_time END,
        period = excluded.period
    """
_DROP_OLD: Final = """
    DELETE FROM sighting WHERE cause = ? AND last_time <
        (SELECT last_time FROM sighting WHERE cause = ? ORDER BY last_time DESC LIMIT 1 OFFSET ?)
    """
_PUT_DAY: Final = SetStatement(
    """
    INSERT INTO permission_use (access_key, permission, day) VALUES (?, ?, ?)
    ON CONFLICT (access_key, permission) DO UPDATE SET
        day = CASE WHEN permission_use.day > excluded.day
            THEN permission_use.day ELSE excluded.day END
    """,
    ("TEXT", "TEXT", "BIGINT"),
)
_DROP_PERMISSION: Final = "DELETE FROM permission_use WHERE access_key = ? AND permission = ?"

_START: Final = "SELECT time FROM permission_use_start WHERE id = 1"
_SIGHTINGS: Final = """
    SELECT access_key, cause, period, count, first_time, last_time, last_peer
    FROM requested JOIN sighting ON sighting.access_key = requested.value
    """
_DAYS: Final = """
    SELECT access_key, permission, day
    FROM requested JOIN permission_use ON permission_use.access_key = requested.value
    """
_CREATED: Final = """
    SELECT key.access_key, key.create_time
    FROM requested JOIN key ON key.access_key = requested.value
    """


def add(rows: Rows, observed: Observations) -> None:
    """Add observations; see `Transaction.count_usage`."""
    if observed.sightings:
        rows.run_many(
            _ADD,
            [
                (
                    sighting.access_key,
                    sighting.cause.value,
                    microseconds(sighting.period),
                    sighting.number,
                    microseconds(sighting.first_time),
                    microseconds(sighting.last_time),
                    sighting.last_peer,
                )
                for sighting in observed.sightings
            ],
        )
        for cause in sorted({sighting.cause.value for sighting in observed.sightings}):
            rows.run(_DROP_OLD, (cause, cause, SIGHTINGS_KEPT - 1))
    _put_days(rows, observed.permissions)


def note_grants(
    rows: Rows, access_key: str, added: Sequence[PermissionUse], removed: Sequence[str]
) -> None:
    """Store the days on which permissions were granted, and forget removed permissions."""
    if removed:
        rows.run_many(_DROP_PERMISSION, [(access_key, permission) for permission in removed])
    _put_days(rows, added)


def _put_days(rows: Rows, uses: Sequence[PermissionUse]) -> None:
    """Store the newest day of each permission, in the order of the given uses."""
    newest: dict[tuple[str, str], datetime] = {}
    for access_key, permission, day in uses:
        newest[access_key, permission] = max(day, newest.get((access_key, permission), day))
    rows.run_set(_PUT_DAY, [(*use, microseconds(day)) for use, day in newest.items()])


def permissions_observed_since(rows: Rows) -> datetime | None:
    """Return since when the use of permissions is stored; None: since the first key."""
    found = rows.one(_START)
    return None if found is None else time_from(found[0])


def observations_of(
    rows: Rows, access_keys: Iterable[str], successors: Mapping[str, str], *, permissions: bool
) -> Mapping[str, KeyObservations]:
    """Return the observations of each key; `successors` names those of keys in their overlap."""
    names = list(access_keys)
    sightings: defaultdict[str, dict[SightingCause, Sighting]] = defaultdict(dict)
    days: defaultdict[str, dict[str, datetime]] = defaultdict(dict)
    requested = rows.values_table(names)
    for row in rows.each(requested.table + _SIGHTINGS, (requested.value,)):
        sighting = _sighting(row)
        sightings[sighting.access_key][sighting.cause] = sighting
    if permissions:
        for access_key, permission, day in rows.each(requested.table + _DAYS, (requested.value,)):
            days[access_key][permission] = time_from(day)
    created: dict[str, datetime] = {}
    if successors:
        following = rows.values_table(successors.values())
        for access_key, time in rows.each(following.table + _CREATED, (following.value,)):
            created[access_key] = time_from(time)
    return {
        name: KeyObservations(sightings[name], days[name], created.get(successors.get(name, "")))
        for name in names
    }


def _sighting(row: Row) -> Sighting:
    access_key, cause, period, count, first_time, last_time, last_peer = row
    return Sighting(
        access_key,
        SightingCause(cause),
        time_from(period),
        count,
        time_from(first_time),
        time_from(last_time),
        last_peer,
    )
