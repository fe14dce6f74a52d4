"""Restoring a backup without reviving revoked or rotated keys.

`services.carry_over` repeats those of the present database in the restored log. All other state
returns to that of the backup; the report counts and names the differences.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import Final

from keyauthority.clock import SystemClock
from keyauthority_server.audit import entry_signer, verify
from keyauthority_server.config import Config, ConfigError
from keyauthority_server.keyring import Keyring
from keyauthority_server.runtime.bootstrap import AUDIT_KEY, PEPPER, reported, verify_against
from keyauthority_server.services.carry_over import CarryOver
from keyauthority_server.store.interface import StoreError, StoreReadOnly, Transaction
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
        carried = CarryOver()

        def work(transaction: Transaction) -> None:
            if present is not None:
                # Those of the present database are for the digests of successors.
                checks = {**audit_key.check_values(), **present.key_checks}
                carried.work(transaction, present.keys, checks)

        draft.change(entry_signer(audit_key), work)
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
