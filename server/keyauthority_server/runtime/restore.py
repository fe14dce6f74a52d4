"""Restoring a backup without reviving revoked or rotated keys.

Revocations in the present database are repeated with their time, reason and note. Rotations are
carried over whole, with the old key's end and the successor's secret: either alone would lock a
caller out or let one in. Both become changes in the restored log, by the actor `restore`. All other
state returns to that of the backup; the report counts and names the differences.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
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
    checked_present,
    drafted,
    present_log,
)
from keyauthority_server.store.types import Mutation, StoredKey

ACTOR: Final = "restore"


class RestoreRefused(Exception):
    """Later revocations are unknown, and that was not accepted; the message is one line."""


_NOTHING: Final = Undone()


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """The report of a restore or a dry run."""

    backup: Content
    content: Content
    """Content of the database after the restore."""
    aside: Path | None
    """Path of the previous database."""
    revoked: Sequence[str]
    """Access keys whose later revocation was carried over."""
    rotated: Sequence[str]
    """Access keys whose later rotation was carried over."""
    lost: Sequence[str]
    """Access keys that only the present database had."""
    undone: Undone
    unknown: str
    """Why revocations after the backup are unknown; empty if they are known."""


def restore(config: Config, file: Path, *, accept_unknown: bool, dry_run: bool) -> Restored:
    """Replace the database with the backup in `file`; no server may have it open.

    Raises ConfigError or TransientError and changes nothing if the file or the key files are
    unusable; RestoreRefused if later revocations are unknown and that is not accepted.
    """
    database = config.store.sqlite_path
    with reported(), drafted(file, database) as draft:
        audit_key = _audit_key(config.data, draft)
        altered = _altered(draft.log, audit_key)
        if altered:
            raise ConfigError(f"the log in {file} was altered: {altered}; run audit verify")
        present, unknown = _present(draft, database, audit_key)
        if unknown and not (accept_unknown or dry_run):
            raise RestoreRefused(
                f"{unknown}: unknown keys that were revoked after revision "
                f"{draft.content.revision} would verify again; --accept-unknown restores anyway"
            )
        carried = _CarriedOver()
        checks = audit_key.check_values()
        draft.change(
            sealer(audit_key), lambda transaction: carried.work(transaction, present, checks)
        )
        aside = _aside(database)
        content = draft.content if dry_run else draft.install(database, aside)
    return Restored(
        backup=draft.content,
        content=content,
        aside=aside if aside.exists() else None,
        revoked=carried.revoked,
        rotated=carried.rotated,
        lost=carried.lost,
        undone=present.undone if present else _NOTHING,
        unknown=unknown,
    )


def _audit_key(data: Path, draft: Draft) -> Keyring:
    """Return the audit key; raises KeyringError if the key files do not match the backup."""
    pepper, audit_key = (Keyring.load(data / name) for name in (PEPPER, AUDIT_KEY))
    verify_against((pepper, audit_key), draft.versions_in_use(SystemClock().now()))
    return audit_key


def _altered(log: FileLog, audit_key: Keyring) -> str:
    """Return the first finding of a verification of the chain; empty without findings."""
    findings = asyncio.run(verify(log, audit_key)).findings
    return f"revision {findings[0].revision}: {findings[0].what}" if findings else ""


def _present(draft: Draft, database: Path, audit_key: Keyring) -> tuple[Present | None, str]:
    """Return the newer state of the present database, and why it may be incomplete."""
    if not database.exists():
        return None, f"there is no database at {database}"
    try:
        with checked_present(database) as path:
            present = draft.compare(path)
            with present_log(path) as log:
                altered = _altered(log, audit_key) if present.continues else ""
    except StoreReadOnly:
        raise
    except StoreError as failure:
        return None, str(failure)
    if present.continues:
        if altered:  # a revocation may have been undone in it
            return None, f"the log in {database} was altered: {altered}"
        return present, ""
    key_checks = draft.key_checks()
    if any(key_checks.get(name, check) != check for name, check in present.key_checks.items()):
        return None, f"{database} uses another pepper or audit key"
    return present, (
        f"{database} does not continue this backup: it is new, or restored from an older backup"
    )


def _aside(database: Path) -> Path:
    stamp = SystemClock().now().astimezone(UTC).strftime("%Y%m%dT%H%M%S%fZ")
    return database.with_name(f"{database.name}.before-{stamp}")


class _CarriedOver:
    """State carried over from the present database into the restored log."""

    def __init__(self) -> None:
        self.revoked: list[str] = []
        self.rotated: list[str] = []
        self.lost: list[str] = []

    def work(
        self, transaction: SqlTransaction, present: Present | None, checks: Mapping[str, bytes]
    ) -> None:
        """Apply the later revocations and rotations; `checks` are those of the audit key."""
        if present is None:
            return
        now = SystemClock(transaction.newest_time).now()
        newer = {stored.key.access_key: stored for stored in present.keys}
        transaction.set_key_checks(present.key_checks)  # for the digests of successors
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
    transaction.delete_sealed_tokens(revoked.access_key)


def _mutation(change_type: ChangeType, now: datetime, *keys: StoredKey) -> Mutation:
    return Mutation(type=change_type, time=now, actor=ACTOR, peer="", keys=keys)
