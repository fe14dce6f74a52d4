"""Repeats revocations and rotations of a newer log in a restored one, so that no key revives.

Revocations keep their time, reason and note. Rotations are carried over whole, with the old key's
end and the successor's secret: either alone would lock a caller out or let one in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from keyauthority.clock import SystemClock
from keyauthority.model import ChangeType, Key
from keyauthority_server.store.interface import Transaction
from keyauthority_server.store.types import Actor, Mutation, StoredKey

RESTORE: Final = Actor("restore")


class CarryOver:
    """Names the keys that it has changed, or that only the newer log has."""

    def __init__(self) -> None:
        self.revoked: list[str] = []
        self.rotated: list[str] = []
        self.lost: list[str] = []

    def work(
        self, transaction: Transaction, keys: Sequence[StoredKey], checks: Mapping[str, bytes]
    ) -> None:
        """Apply later revocations and rotations of `keys`; `checks` are of the key files."""
        now = SystemClock(transaction.newest_time).now()
        newer = {stored.key.access_key: stored for stored in keys}
        transaction.set_key_checks(checks)
        for name, stored in newer.items():
            older = transaction.key(name, None)
            if older is None:
                self.lost.append(name)
                continue
            successor = newer.get(stored.key.successor_access_key)
            if successor is not None and not older.key.successor_access_key:
                older = _rotate(transaction, older, stored.key, successor, now)
                self.rotated.append(name)
            if stored.key.revoke_time is not None and older.key.revoke_time is None:
                _revoke(transaction, older, stored.key, now)
                self.revoked.append(name)


def _rotate(
    transaction: Transaction, older: StoredKey, newer: Key, successor: StoredKey, now: datetime
) -> StoredKey:
    """Repeat a rotation; the successor starts neither rotated nor revoked."""
    fresh = replace(
        successor.key,
        supersede_time=None,
        successor_access_key="",
        revoke_time=None,
        revoke_reason=None,
        revoke_note="",
    )
    ends = [time for time in (newer.supersede_time, older.key.expire_time) if time is not None]
    previous = replace(
        older.key,
        supersede_time=min(ends),
        successor_access_key=newer.successor_access_key,
    )
    keys = (older._replace(key=previous), successor._replace(key=fresh))
    applied = transaction.apply(Mutation(RESTORE, ChangeType.KEY_ROTATED, now, keys))
    return older._replace(key=applied.keys[0])


def _revoke(transaction: Transaction, older: StoredKey, newer: Key, now: datetime) -> None:
    revoked = replace(
        older.key,
        revoke_time=newer.revoke_time,
        revoke_reason=newer.revoke_reason,
        revoke_note=newer.revoke_note,
    )
    stored = older._replace(key=revoked)
    transaction.apply(Mutation(RESTORE, ChangeType.KEY_REVOKED, now, (stored,)))
    transaction.delete_sealed_tokens(revoked.access_key)
