"""Digests of tokens and their pepper versions, the same for both engines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final

from keyauthority_server.store.rows import Row, Rows, SetStatement
from keyauthority_server.store.sql.row_codec import microseconds, time_from
from keyauthority_server.store.sql.statements import KEY_CHECKS, PUT_KEY_CHECK
from keyauthority_server.store.types import DigestUpgrade, PepperUsage, VersionsInUse

_DROP_KEY_CHECK: Final = "DELETE FROM key_check WHERE name = ?"
VERSIONS_MAX: Final = 1_000  # more than two years of daily rotations; more are reported as damage
_LOWEST: Final = -(2**63)

# Skips a key whose digest another process has upgraded meanwhile.
_UPGRADE_DIGEST: Final = SetStatement(
    """
    UPDATE key SET digest = ?, pepper_version = ?
    WHERE access_key = ? AND pepper_version = ? AND digest = ?
    """,
    ("BYTEA", "BIGINT", "TEXT", "BIGINT", "BYTEA"),
    """
    UPDATE key SET digest = new.digest, pepper_version = new.pepper_version
    FROM {given} AS new (digest, pepper_version, access_key, found_version, found)
    WHERE key.access_key = new.access_key AND key.pepper_version = new.found_version
        AND key.digest = new.found
    """,
)

# Read from the index `key_by_pepper`, which holds no revoked key.
_NEEDING: Final = """
    SELECT access_key FROM key
    WHERE pepper_version = ? AND revoke_time IS NULL
        AND (supersede_time IS NULL OR supersede_time > ?)
    ORDER BY supersede_time LIMIT ?
    """
_COUNT_OLDER: Final = """
    SELECT count(*) FROM key
    WHERE pepper_version < ? AND revoke_time IS NULL
        AND (supersede_time IS NULL OR supersede_time > ?)
    """

_NEXT_PEPPER: Final = (
    "SELECT min(pepper_version) FROM key WHERE revoke_time IS NULL AND pepper_version > ?"
)
_PEPPER_NEEDED: Final = """
    SELECT 1 FROM key
    WHERE pepper_version = ? AND revoke_time IS NULL
        AND (supersede_time IS NULL OR supersede_time > ?)
    LIMIT 1
    """
# One query for both ends would scan the table: SQLite looks up one of them only.
_LOG_ENDS: Final = """
    SELECT (SELECT min(revision) FROM change WHERE revision > 0), (SELECT max(revision) FROM change)
    """
_KEY_VERSION: Final = "SELECT key_version FROM change WHERE revision = ?"

_COUNT_NEEDING: Final = """
    SELECT pepper_version, count(*) FROM key
    WHERE revoke_time IS NULL AND (supersede_time IS NULL OR supersede_time > ?)
    GROUP BY pepper_version
    """
_COUNT_ALL: Final = "SELECT pepper_version, count(*) FROM key GROUP BY pepper_version"
_SEALED_UNTIL: Final = """
    SELECT max(end_time) FROM request
    WHERE pepper_version = ? AND sealed IS NOT NULL AND end_time > ?
    """
_COUNT_SEALED: Final = """
    SELECT pepper_version, count(*), max(end_time) FROM request
    WHERE sealed IS NOT NULL AND end_time > ? GROUP BY pepper_version
    """


def key_checks(rows: Rows) -> Mapping[str, bytes]:
    """Return the check values that identify key files, by name."""
    return {name: bytes(check_value) for name, check_value in rows.each(KEY_CHECKS)}


def set_key_checks(rows: Rows, checks: Mapping[str, bytes]) -> None:
    """Store check values for names that have none yet."""
    rows.run_many(PUT_KEY_CHECK, checks.items())


def drop_key_check(rows: Rows, name: str) -> None:
    """Delete the check value of one key version."""
    rows.run(_DROP_KEY_CHECK, (name,))


def upgrade_digests(rows: Rows, upgrades: Sequence[DigestUpgrade]) -> None:
    """Replace digests, except those that have changed since they were read."""
    rows.run_set(
        _UPGRADE_DIGEST,
        [
            (new.digest, new.pepper_version, new.access_key, new.found_version, new.found)
            for new in upgrades
        ],
    )


def keys_needing(rows: Rows, pepper_version: int, now: datetime, limit: int) -> list[str]:
    """Return up to `limit` access keys of keys that need a version of the pepper.

    A key needs the version of its digest until it is revoked or its supersede_time has come: after
    either it is never valid again. A disabled or expired key may become valid again.
    """
    values = (pepper_version, microseconds(now), limit)
    return [access_key for (access_key,) in rows.each(_NEEDING, values)]


def sealed_until(rows: Rows, pepper_version: int, now: datetime) -> datetime | None:
    """Return when the last token sealed under a version expires; None without one."""
    row = rows.one(_SEALED_UNTIL, (pepper_version, microseconds(now)))
    return None if row is None or row[0] is None else time_from(row[0])


def keys_under_older(rows: Rows, pepper_version: int, now: datetime) -> int:
    """Return how many keys need an older version of the pepper than this one.

    It reads one index entry for each key counted.
    """
    row = rows.one(_COUNT_OLDER, (pepper_version, microseconds(now)))
    return 0 if row is None else int(row[0])


def pepper_usage(rows: Rows, now: datetime) -> list[PepperUsage]:
    """Return the use of each pepper version that is in use, in order of versions.

    It reads a row for each key: do not call it on a timer.
    """
    time = microseconds(now)
    needing = _by_version(rows.each(_COUNT_NEEDING, (time,)))
    every = _by_version(rows.each(_COUNT_ALL))
    sealed = {version: (count, end) for version, count, end in rows.each(_COUNT_SEALED, (time,))}
    found = []
    for version in sorted(every.keys() | sealed.keys()):
        needed = needing.get(version, 0)
        count, end = sealed.get(version, (0, None))
        until = None if end is None else time_from(end)
        found.append(PepperUsage(version, needed, every.get(version, 0) - needed, count, until))
    return found


def versions_in_use(rows: Rows, now: datetime) -> VersionsInUse:
    """Return the key versions that the log and its keys depend on.

    A pepper version that no key needs may be missing. It uses indexes only, no scan.
    """
    time, peppers, version = microseconds(now), set[int](), _LOWEST
    while len(peppers) < VERSIONS_MAX:
        row = rows.one(_NEXT_PEPPER, (version,))
        if row is None or row[0] is None:
            break
        version = row[0]
        if rows.one(_PEPPER_NEEDED, (version, time)) is not None:
            peppers.add(version)
    return VersionsInUse(key_checks(rows), frozenset(peppers), frozenset(_audit_versions(rows)))


def _audit_versions(rows: Rows) -> Iterator[int]:
    """Yield the audit-key versions of entries; as they never decrease, by binary search."""
    ends = rows.one(_LOG_ENDS)
    if ends is None or ends[0] is None:
        return
    first, last = map(int, ends)
    for _ in range(VERSIONS_MAX):
        found = rows.one(_KEY_VERSION, (first,)) if first <= last else None
        if found is None:
            return
        yield found[0]
        low, high = first, last + 1  # the first entry of another version comes after the one
        while high - low > 1:
            middle = (low + high) // 2
            row = rows.one(_KEY_VERSION, (middle,))
            if row is not None and row[0] == found[0]:
                low = middle
            else:
                high = middle
        first = high


def _by_version(counts: Iterable[Row]) -> dict[int, int]:
    return {row[0]: row[1] for row in counts}
