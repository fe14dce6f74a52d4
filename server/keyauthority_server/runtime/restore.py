"""A restore brings no key back to life: what was final in the present database is taken over.

Revocations are made again, with their time, reason and note. Rotations are taken over whole, the
old key's end and its successor with its secret: either alone would lock out or let in. All of it is
changes of the restored log, by the actor `restore`. What is not final goes back to what the backup
says, since that is what one restores for; it is counted, and told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from keyauthority.clock import SystemClock
from keyauthority.model import ChangeType, Key
from keyauthority_server.audit import sealer, verify
from keyauthority_server.config import Config, ConfigError
from keyauthority_server.keyring import Keyring
from keyauthority_server.runtime.bootstrap import AUDIT_KEY, PEPPER, reported, verify_against
from keyauthority_server.store.interface import StoreError, StoreReadOnly, Transaction
from keyauthority_server.store.sql.transaction import SqlTransaction
from keyauthority_server.store.sqlite.backup import Content
from keyauthority_server.store.sqlite.restore import (
    Draft,
    FileLog,
    Present,
    Undone,
    check_present,
    drafted,
    present_log,
)
from keyauthority_server.store.types import Mutation, StoredKey

ACTOR: Final = "restore"


class RestoreRefused(Exception):
    """Revocations are unknown, and nobody has accepted that; the message is one line."""


_NOTHING: Final = Undone()


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What a restore has done, or would do."""

    backup: Content
    content: Content
    """What the database holds then."""
    aside: Path | None
    """Where the database is that was there before."""
    revoked: Sequence[str]
    """Access keys whose revocation would have been undone, and is not."""
    rotated: Sequence[str]
    """Access keys whose rotation would have been undone, and is not."""
    lost: Sequence[str]
    """Access keys that only the present database knew."""
    undone: Undone
    unknown: str
    """Why revocations that are newer than the backup are not known; empty if they are."""


def restore(config: Config, file: Path, *, accept_unknown: bool, dry_run: bool) -> Restored:
    """Put what `file` holds in place of the database, which no server may have open.

    Raises ConfigError or TransientError with one line, and changes nothing, if the file or the key
    files are not right; RestoreRefused if revocations are unknown and that is not accepted.
    """
    database = config.store.sqlite_path
    with reported(), drafted(file, database) as draft:
        audit_key = _audit_key(config.data, draft)
        altered = _altered(draft.log, audit_key)
        if altered:
            raise ConfigError(f"{file} is not as it was written: {altered}; see audit verify")
        present, unknown = _present(draft, database, audit_key)
        if unknown and not (accept_unknown or dry_run):
            raise RestoreRefused(
                f"{unknown}: keys that were revoked after revision {draft.content.revision} "
                f"would verify again, and nobody can say which; --accept-unknown restores"
            )
        taken = _CarriedOver()
        draft.change(sealer(audit_key), lambda transaction: taken.work(transaction, present))
        aside = _aside(database)
        content = draft.content if dry_run else draft.install(database, aside)
    return Restored(
        backup=draft.content,
        content=content,
        aside=aside if aside.exists() else None,
        revoked=taken.revoked,
        rotated=taken.rotated,
        lost=taken.lost,
        undone=present.undone if present else _NOTHING,
        unknown=unknown,
    )


def _audit_key(data: Path, draft: Draft) -> Keyring:
    """Return the audit key; KeyringError unless the folder's files are those of the backup."""
    pepper, audit_key = (Keyring.load(data / name) for name in (PEPPER, AUDIT_KEY))
    verify_against((pepper, audit_key), draft.versions_in_use(SystemClock().now()))
    return audit_key


def _altered(log: FileLog, audit_key: Keyring) -> str:
    """Return the first thing that a verification of the chain finds; empty if all is whole."""
    findings = asyncio.run(verify(log, audit_key)).findings
    return f"revision {findings[0].revision}: {findings[0].what}" if findings else ""


def _present(draft: Draft, database: Path, audit_key: Keyring) -> tuple[Present | None, str]:
    """Return what the present database says more, and why that may not be all; empty if it is."""
    if not database.exists():
        return None, f"there is no database at {database}"
    try:
        check_present(database)
        present = draft.compare(database)
    except StoreReadOnly:
        raise
    except StoreError as failure:
        return None, str(failure)
    if present.continues:
        with present_log(database) as log:
            altered = _altered(log, audit_key)
        if altered:  # a revocation may have been undone in it
            return None, f"{database} is not as it was written: {altered}"
        return present, ""
    known = draft.key_checks()
    if any(known.get(name, check) != check for name, check in present.key_checks.items()):
        return None, f"{database} was made under another pepper or audit key"
    return present, (
        f"{database} does not go on from this backup: it was made anew, or of an older backup"
    )


def _aside(database: Path) -> Path:
    stamp = SystemClock().now().astimezone(UTC).strftime("%Y%m%dT%H%M%S%fZ")
    return database.with_name(f"{database.name}.before-{stamp}")


class _CarriedOver:
    """What was taken over from the present database into the restored log."""

    def __init__(self) -> None:
        self.revoked: list[str] = []
        self.rotated: list[str] = []
        self.lost: list[str] = []

    def work(self, transaction: SqlTransaction, present: Present | None) -> None:
        """Make the changes that take over what is final."""
        if present is None:
            return
        now = SystemClock(transaction.newest_time).now()
        newer = {stored.key.access_key: stored for stored in present.keys}
        transaction.set_key_checks(present.key_checks)  # of digests that come with successors
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
    """Rotate a key as it was rotated; its successor is as yet neither rotated nor revoked."""
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
    applied = transaction.apply(_mutation(ChangeType.KEY_ROTATED, now, *keys))
    return older._replace(key=applied.keys[0])


def _revoke(transaction: Transaction, older: StoredKey, newer: Key, now: datetime) -> None:
    revoked = replace(
        older.key,
        revoke_time=newer.revoke_time,
        revoke_reason=newer.revoke_reason,
        revoke_note=newer.revoke_note,
    )
    transaction.apply(_mutation(ChangeType.KEY_REVOKED, now, older._replace(key=revoked)))
    transaction.forget_token(revoked.access_key)


def _mutation(change_type: ChangeType, now: datetime, *keys: StoredKey) -> Mutation:
    return Mutation(type=change_type, time=now, actor=ACTOR, peer="", keys=keys)
