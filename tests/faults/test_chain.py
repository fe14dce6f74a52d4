"""Any altered, removed, inserted or reordered entry is located, as is a cut tail.

The attacker controls the database, triggers included, and lacks the audit key.
"""

from __future__ import annotations

import asyncio
import hmac
import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from keyauthority.model import ChangeType, LogId, Revision
from keyauthority_server.audit import Verified, canonical_bytes, entry_signer, verify
from keyauthority_server.audit.verification import FINDINGS_MAX
from keyauthority_server.keyring import Keyring
from keyauthority_server.store.interface import Transaction
from keyauthority_server.store.sql import integrity
from keyauthority_server.store.sql.integrity import compared_key
from keyauthority_server.store.sql.queries.events import read_log
from keyauthority_server.store.sqlite.connection import sqlite3
from keyauthority_server.store.sqlite.store import migrate, open_store
from keyauthority_server.store.types import LogHead
from tests.store.factories import NOON, create_project, key, mutation, put

UNLOCKED = ("DROP TRIGGER change_is_not_updated", "DROP TRIGGER change_is_not_deleted")
TRIGGERS = "SELECT sql FROM sqlite_schema WHERE type = 'trigger'"
SHIFTED = "UPDATE change SET revision = revision - 1 WHERE revision = {}"
COPIED = """
    INSERT INTO change (revision, time, type, project_id, access_key, actor, peer, keys, project,
        before, salt, key_version, hash)
    SELECT {}, time, type, project_id, access_key, actor, peer, keys, project, before, salt,
        key_version, hash FROM change WHERE {}
    """


class Log(NamedTuple):
    """A database with a project, keys, a rotation, an update, a revocation: changes 1 to 6."""

    path: Path
    audit_key: Keyring

    async def verified(self, saved: LogHead | None = None) -> Verified:
        """Verify it, from a fresh start."""
        store = open_store(
            self.path, entry_signer(self.audit_key), checkpoints=False, checked=False
        )
        try:
            return await verify(store, self.audit_key, saved)
        finally:
            await store.close()

    async def updated_again(self, table: str) -> None:
        """Make an honest change, number 7, of the key that was revoked, or of the project."""
        store = open_store(self.path, entry_signer(self.audit_key), checked=False)

        def work(transaction: Transaction) -> None:
            change = transaction.change(Revision(6 if table == "key" else 5))
            if change.project is not None:
                transaction.apply(mutation(ChangeType.PROJECT_UPDATED, change.project))
            else:
                held = transaction.key(change.keys[0].access_key, None)
                assert held is not None
                transaction.apply(mutation(ChangeType.KEY_UPDATED, held.key))

        try:
            await store.write(work)
        finally:
            await store.close()

    def tamper(self, *statements: str) -> None:
        """Change the database behind the server's back."""
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            triggers = connection.execute(TRIGGERS).fetchall()
            for statement in (*UNLOCKED, *statements, *(sql for (sql,) in triggers)):
                connection.execute(statement)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a log that is whole, to be copied."""
    folder = tmp_path_factory.mktemp("log")
    migrate(folder / "keys.db")
    asyncio.run(fill(folder / "keys.db", Keyring.create(folder / "audit.key")))
    return folder


@pytest.fixture
def log(template: Path, tmp_path: Path) -> Log:
    """A log that is whole, of the test's own."""
    folder = shutil.copytree(template, tmp_path / "log")
    return Log(folder / "keys.db", Keyring.load(folder / "audit.key"))


async def fill(path: Path, audit_key: Keyring) -> None:
    """Make changes 1 to 6."""
    store = open_store(path, entry_signer(audit_key))
    project = await create_project(store)
    first, second, third = (key(project.project_id) for _ in range(3))
    for one in (first, second):
        await put(store, ChangeType.KEY_CREATED, one)
    third = replace(third, predecessor_access_key=second.access_key)
    await put(store, ChangeType.KEY_ROTATED, second, third, lineage=second.access_key)
    await put(store, ChangeType.PROJECT_UPDATED, project)
    await put(store, ChangeType.KEY_REVOKED, replace(first, revoke_time=NOON))
    await store.close()


ALTERED = "the MAC of the entry does not match: altered, inserted or moved"
BUILT_ON_ALTERED = (
    "its previous record differs from the log: the record was altered before this change"
)
NO_ENTRY = "the row holds no valid entry: altered"

TAMPERINGS: dict[str, tuple[Sequence[str], int, str]] = {
    "actor altered": (["UPDATE change SET actor = 'x' WHERE revision = 3"], 3, ALTERED),
    "peer altered": (["UPDATE change SET peer = '' WHERE revision = 1"], 1, ALTERED),
    "time altered": (["UPDATE change SET time = time - 1 WHERE revision = 2"], 2, ALTERED),
    "salt altered": (["UPDATE change SET salt = x'00' WHERE revision = 6"], 6, ALTERED),
    "type altered": (
        ["UPDATE change SET type = 'key_updated' WHERE revision = 6"],
        6,
        ALTERED,
    ),
    "record altered": (
        ["""UPDATE change SET keys = replace(keys, '"live"', '"test"') WHERE revision = 2"""],
        2,
        ALTERED,
    ),
    "what was before altered": (
        ["""UPDATE change SET before = '[{}]' WHERE revision = 6"""],
        6,
        ALTERED,
    ),
    "no JSON any more": (["UPDATE change SET keys = '[' WHERE revision = 4"], 4, NO_ENTRY),
    "spelt otherwise": (["UPDATE change SET keys = keys || ' ' WHERE revision = 4"], 4, NO_ENTRY),
    "unknown type": (["UPDATE change SET type = 'x' WHERE revision = 5"], 5, NO_ENTRY),
    "hash altered": (["UPDATE change SET hash = x'00' WHERE revision = 4"], 4, ALTERED),
    "key version altered": (
        ["UPDATE change SET key_version = 9 WHERE revision = 4"],
        4,
        "it names version 9 of the audit key: unknown",
    ),
    "removed": (
        ["DELETE FROM change WHERE revision = 3"],
        3,
        "revision 3 is missing: removed, or given another number",
    ),
    "two removed": (
        ["DELETE FROM change WHERE revision IN (3, 4)"],
        3,
        "revision 3 to 4 are missing: removed, or given another number",
    ),
    "first removed": (
        ["DELETE FROM change WHERE revision = 1"],
        1,
        "revision 1 is missing: removed, or given another number",
    ),
    "removed and closed up": (
        ["DELETE FROM change WHERE revision = 3", *(SHIFTED.format(one) for one in (4, 5, 6))],
        3,
        ALTERED,
    ),
    "reordered": (
        [
            "UPDATE change SET revision = 100 WHERE revision = 2",
            "UPDATE change SET revision = 2 WHERE revision = 3",
            "UPDATE change SET revision = 3 WHERE revision = 100",
        ],
        2,
        ALTERED,
    ),
    "inserted at the end": (
        [
            COPIED.format(7, "revision = 6"),
            "UPDATE log SET revision = 7",
        ],
        7,
        ALTERED,
    ),
    "inserted before the first": (
        [COPIED.format(-4, "revision = 6")],
        -4,
        "no change has this number: the entry was inserted",
    ),
    "tail cut": (
        ["DELETE FROM change WHERE revision = 6"],
        6,
        "the log is counted up to 6: its tail was cut off",
    ),
    "counted back": (
        ["UPDATE log SET revision = 5"],
        6,
        "the log is counted up to 5 only",
    ),
    "time moved": (
        ["UPDATE log SET time = time + 1"],
        6,
        "the MAC of the log's newest time does not match: altered",
    ),
    "time of no version": (
        ["UPDATE log SET time_key_version = 9"],
        6,
        "the MAC of the log's newest time does not match: altered",
    ),
    "time without its MAC": (
        ["UPDATE log SET time = 9, time_hash = NULL"],
        6,
        "the MAC of the log's newest time does not match: altered",
    ),
    "last hash altered": (
        ["UPDATE log SET hash = x'00'"],
        6,
        "the last hash is not that of the counter row",
    ),
}


async def test_untampered_log_has_no_finding(log: Log) -> None:
    """A regular log gives no finding, with or without a saved head."""
    verified = await log.verified()
    assert [] == verified.findings
    assert 6 == verified.head.revision
    assert [] == (await log.verified(verified.head)).findings


@pytest.mark.parametrize("name", TAMPERINGS)
async def test_tampering_is_located(log: Log, name: str) -> None:
    """The first finding names the revision at which the chain breaks."""
    statements, revision, what = TAMPERINGS[name]
    log.tamper(*statements)
    findings = (await log.verified()).findings
    assert (revision, what) in findings
    assert revision == findings[0].revision


RECORDS: dict[str, tuple[Sequence[str], int, str]] = {
    "revocation taken back": (["UPDATE key SET revoke_time = NULL"], 6, "revoke_time"),
    "purpose altered": (["UPDATE key SET purpose = 'x' WHERE revision = 6"], 6, "purpose"),
    "made of no sense": (["UPDATE key SET labels = '{' WHERE revision = 6"], 6, "read"),
    "older record": (["UPDATE key SET revision = 2 WHERE revision = 6"], 6, "change 2"),
    "numbered otherwise": (["UPDATE key SET created_revision = 99 WHERE revision = 6"], 2, "miss"),
    "lineage exchanged": (
        ["UPDATE key SET lineage = access_key WHERE created_revision = 4"],
        4,
        "lineage",
    ),
    "key removed": (
        ["PRAGMA foreign_keys = OFF", "DELETE FROM key WHERE revision = 6"],
        2,
        "missing",
    ),
    "project altered": (["UPDATE project SET suspended = 1"], 5, "suspended"),
    "project removed": (["DELETE FROM project"], 1, "missing"),
}


@pytest.mark.parametrize("name", RECORDS)
async def test_record_that_differs_from_its_change_is_found(log: Log, name: str) -> None:
    """The records used for verification must match the log."""
    statements, revision, word = RECORDS[name]
    log.tamper(*statements)
    findings = (await log.verified()).findings
    assert [revision] == sorted({one.revision for one in findings if word in one.what})


@pytest.mark.parametrize("table", ["key", "project"])
async def test_reinstated_row_is_found_after_a_change_based_on_it(
    log: Log, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    """Permanently: also with a head saved after the revocation or update."""
    saved = (await log.verified()).head
    if table == "key":  # the revocation of change 6 is undone, as change 2 had left the key
        log.tamper(
            "UPDATE key SET revision = 2, revoke_time = NULL, update_time ="
            " (SELECT time FROM change WHERE change.revision = 2) WHERE revision = 6"
        )
    else:
        log.tamper("UPDATE project SET revision = 1 WHERE revision = 5")
    with monkeypatch.context() as forgiving:  # a server that believes the row
        forgiving.setattr(integrity, "check_newest", lambda _: None)
        await log.updated_again(table)
    for head in (None, saved):
        findings = (await log.verified(head)).findings
        assert [(7, BUILT_ON_ALTERED)] == findings


async def test_partly_altered_row_is_found_after_a_change_based_on_it(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record that names its newest change but differs from it is found too."""
    log.tamper("UPDATE key SET revoke_time = NULL WHERE revision = 6")
    with monkeypatch.context() as forgiving:
        forgiving.setattr(integrity.CheckedRecords, "key", lambda _, row: compared_key(row[:-2]))
        await log.updated_again("key")
    assert [(7, BUILT_ON_ALTERED)] == (await log.verified()).findings


async def test_saved_head_finds_a_consistently_cut_tail(log: Log) -> None:
    """With counter row, entry and record put back, only a saved head shows the loss."""
    saved = (await log.verified()).head
    log.tamper(
        "DELETE FROM change WHERE revision = 6",
        "UPDATE log SET (revision, hash) = (SELECT revision, hash FROM change WHERE revision = 5)",
        "UPDATE key SET revision = 2, revoke_time = NULL, update_time ="
        " (SELECT time FROM change WHERE change.revision = 2) WHERE revision = 6",
    )
    assert [] == (await log.verified()).findings
    findings = (await log.verified(saved)).findings
    assert [(6, "the saved head is at 6: the log's tail was cut off")] == findings


async def test_altered_schema_is_the_first_finding(log: Log) -> None:
    """A server refuses to start on it; the log itself is intact."""
    log.tamper("CREATE VIEW spare AS SELECT 1", "DROP INDEX change_by_time")
    assert [
        (0, "the schema: it has the view 'spare', which no migration makes"),
        (0, "the schema: it lacks the index 'change_by_time'"),
    ] == (await log.verified()).findings


async def test_saved_head_finds_another_log(log: Log) -> None:
    """A log with another id or another history does not match the head."""
    saved = (await log.verified()).head
    (other,) = (await log.verified(saved._replace(log_id=LogId("x")))).findings
    assert other.what.endswith("the saved head is of another")
    (hashed,) = (await log.verified(saved._replace(hash=b"x"))).findings
    assert (6, "its hash is not that of the saved head") == hashed


async def test_entry_with_another_audit_key_is_found(log: Log, tmp_path: Path) -> None:
    """Rewriting the log from an entry on requires its audit key."""
    forged = Keyring.create(tmp_path / "forged.key")
    findings = (await log._replace(audit_key=forged).verified()).findings
    assert [1, 2, 3, 4, 5, 6, 6] == [one.revision for one in findings]  # and the newest time


async def test_findings_are_bounded(log: Log) -> None:
    """A completely altered log gives a list of bounded length."""
    doubled = COPIED.format("revision - (SELECT count(*) FROM change)", "TRUE")
    log.tamper(*[doubled] * 6)
    assert FINDINGS_MAX == len((await log.verified()).findings)


async def test_without_mac_comparison_an_altered_entry_passes(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: only the MAC detects the alteration."""
    log.tamper("UPDATE change SET actor = 'x' WHERE revision = 3")
    assert [] != (await log.verified()).findings
    monkeypatch.setattr(hmac, "compare_digest", lambda *_: True)
    assert [] == (await log.verified()).findings


async def test_log_refuses_update_and_delete(log: Log) -> None:
    """The table refuses both until an attacker removes its triggers."""
    with closing(sqlite3.connect(log.path, isolation_level=None)) as connection:
        for statement in ("UPDATE change SET actor = 'x'", "DELETE FROM change"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                connection.execute(statement)
    assert [] == (await log.verified()).findings


async def test_canonical_bytes_are_as_documented(log: Log) -> None:
    """Other programs can verify the chain: sorted keys, no white space, ASCII."""
    store = open_store(log.path, entry_signer(log.audit_key), checked=False)
    try:
        (row, *_) = await store.query(read_log, 0, 1)
    finally:
        await store.close()
    text = canonical_bytes(row.entry)  # type: ignore[union-attr]  # of a log that is whole
    assert text.startswith(b'{"access_key":"","actor":"KA7Q2M9X4T8B3N6W5R1P","before":[{}],"keys":')
    assert b'"previous_hash":"","project":{' in text
    assert b" " not in text
