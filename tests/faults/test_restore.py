"""Restore: carried-over records, unknowable revocations, and refused backups."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from keyauthority.model import ChangeType, Key, Quota, QuotaPeriod, RateLimit, RevokeReason
from keyauthority_server.audit import entry_signer, verify
from keyauthority_server.config import Config, ConfigError
from keyauthority_server.keyring import Keyring
from keyauthority_server.runtime import bootstrap, restore
from keyauthority_server.store.interface import Store
from keyauthority_server.store.migrations import Dialect, Step
from keyauthority_server.store.sqlite import backup as sqlite_backup
from keyauthority_server.store.sqlite import restore as sqlite_restore
from keyauthority_server.store.sqlite.backup import back_up
from keyauthority_server.store.sqlite.schema import RECORDS
from keyauthority_server.store.sqlite.store import open_store
from tests.service.forkserver import shared
from tests.store.engines import Sqlite
from tests.store.factories import (
    NOON,
    applying,
    create,
    create_project,
    held,
    key,
    mutation,
    project,
    put,
)

OVERLAP: Final = timedelta(hours=1)
SQLITE: Final = Sqlite()


def during(settings: Config, work: Callable[[Store], Any]) -> Any:
    """Do something to the store of a data folder, as a server would."""

    async def done() -> Any:
        audit_key = Keyring.load(settings.data / bootstrap.AUDIT_KEY)
        store = open_store(settings.store.sqlite_path, entry_signer(audit_key))
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(done())


def findings(settings: Config) -> list[Any]:
    """The findings of the log's verification."""

    async def found() -> list[Any]:
        async with bootstrap.open_audit(settings) as (store, audit_key):
            return list((await verify(store, audit_key, None)).findings)

    return asyncio.run(found())


def restored(settings: Config, file: Path, **flags: bool) -> restore.Restored:
    """Restore a file; without a flag, as one does who gives none."""
    return restore.restore(settings, file, **({"accept_unknown": False, "dry_run": False} | flags))


def files(folder: Path) -> dict[str, bytes]:
    """The files of a folder, without locks and SQLite's shared memory."""
    passing = (".lock", ".gate", "-shm", "-wal")
    return {
        one.name: one.read_bytes() for one in folder.iterdir() if not one.name.endswith(passing)
    }


async def revoke(store: Store, one: Key, **told: Any) -> None:
    """Revoke a key."""
    gone = replace(one, revoke_time=one.create_time, revoke_reason=RevokeReason.LEAKED, **told)
    await put(store, ChangeType.KEY_REVOKED, gone)


class Before:
    """A data folder with a backup, and the changes after it."""

    def __init__(self, settings: Config, file: Path) -> None:
        self.file = file
        self.keys: list[Key] = []
        during(settings, self._fill)
        self.content = back_up(settings.store.sqlite_path, file)
        self.ended, self.rotated, self.disabled, self.both, self.untouched = self.keys
        self.successor, self.second, self.lost = (
            key(self.ended.project_id, predecessor_access_key=name)
            for name in (self.rotated.access_key, self.both.access_key, "")
        )
        during(settings, self._go_on)

    async def _fill(self, store: Store) -> None:
        owner = (await create_project(store)).project_id
        self.keys = [await create(store, key(owner)) for _ in range(5)]

    async def _go_on(self, store: Store) -> None:
        now = self.ended.create_time
        await revoke(store, self.ended, revoke_note="n")
        for old, new in ((self.rotated, self.successor), (self.both, self.second)):
            previous = replace(
                old, supersede_time=now + OVERLAP, successor_access_key=new.access_key
            )
            rotation = mutation(ChangeType.KEY_ROTATED, previous, new, lineage=old.access_key)
            await store.write(applying(rotation))
        await revoke(store, self.second)
        await put(store, ChangeType.KEY_UPDATED, replace(self.disabled, disabled=True))
        await put(store, ChangeType.KEY_CREATED, self.lost)
        await put(store, ChangeType.PROJECT_CREATED, project())
        await store.set_key_checks({"pepper/2": b"of a pepper that came later"})


@pytest.fixture
def before(settings: Config, tmp_path: Path) -> Before:
    """A backup, and the changes after it."""
    return Before(settings, tmp_path / "backup.db")


def test_restore_report_names_keys_that_need_attention(settings: Config, before: Before) -> None:
    """Each key with wider access than before is listed, as text and as JSON."""
    words = ("restore", "--dry-run", str(before.file), "--data", str(settings.data))
    shown, told = shared().run(*words), shared().run(*words, "--json")
    assert (0, 0) == (shown.code, told.code)
    report = json.loads(told.output)
    names = {name: found for name, found in report.items() if isinstance(found, list) and found}
    assert {
        "revokedKeys": [before.ended.access_key, before.second.access_key],
        "rotatedKeys": [before.rotated.access_key, before.both.access_key],
        "lostKeys": [before.lost.access_key],
        "disabledKeys": [before.disabled.access_key],
        "lostProjects": names["lostProjects"],
    } == names
    assert (True, None, before.content.log_id) == (
        *(report["dryRun"], report["restored"], report["backup"]["logId"]),
    )
    assert f"disable them again:\n  {before.disabled.access_key}\n" in shown.output


@pytest.mark.parametrize("field", ["permissions", "rate_limit", "quota"])
def test_restore_report_names_keys_with_other_rights_or_limits(
    settings: Config, tmp_path: Path, field: str
) -> None:
    """A limit lowered after the backup is raised by the restore."""
    values = {
        "permissions": ("reports:read",),
        "rate_limit": RateLimit(1, timedelta(seconds=1)),
        "quota": Quota(1, QuotaPeriod.DAY),
    }

    async def fill(store: Store) -> Key:
        return await create(store, key((await create_project(store)).project_id))

    created = during(settings, fill)
    file = tmp_path / "backup.db"
    back_up(settings.store.sqlite_path, file)
    narrowed = replace(created, **{field: values[field]})
    during(settings, lambda store: put(store, ChangeType.KEY_UPDATED, narrowed))
    told = restored(settings, file, dry_run=True).undone
    assert ([], [], [created.access_key]) == told[:3]


def test_restore_keeps_the_older_schema_of_the_present_database(
    settings: Config, before: Before, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dry run writes nothing; a restore renames the database as it was."""
    later = RECORDS._replace(steps=(*RECORDS.steps, Step("9999_later", _add_table)))
    for module in (sqlite_backup, sqlite_restore):
        monkeypatch.setattr(module, "RECORDS", later)
    there = files(settings.data)
    rehearsed = restored(settings, before.file, dry_run=True)
    assert [before.disabled.access_key] == rehearsed.undone.disabled_keys
    assert there == files(settings.data)
    aside = restored(settings, before.file).aside
    assert aside is not None
    assert there[settings.store.sqlite_path.name] == aside.read_bytes()


def _add_table(run: Callable[[str], object], _: Dialect) -> None:
    run("CREATE TABLE later (id INTEGER PRIMARY KEY) STRICT")


@pytest.mark.case(24)
def test_restore_carries_over_final_states(settings: Config, before: Before) -> None:
    """Revocations and rotations stay, as changes of the restored log; others are counted."""
    rehearsed = restored(settings, before.file, dry_run=True)
    done = restored(settings, before.file)
    wanted = ([before.ended.access_key, before.second.access_key], [before.lost.access_key])
    for told in (rehearsed, done):
        assert wanted == (told.revoked, told.lost)
        assert [before.rotated.access_key, before.both.access_key] == told.rotated
        assert [before.disabled.access_key] == told.undone.disabled_keys
        assert [0, 0, 0, 1] == [len(names) for names in told.undone[1:]]
        assert "" == told.unknown
    assert before.content == rehearsed.content == done.backup
    assert before.content.log_id != done.content.log_id
    assert (before.content.revision + 4, before.content.keys + 2) == done.content[1:]
    assert done.aside is not None
    assert done.aside.exists()
    assert [] == findings(settings)

    async def look(store: Store) -> list[Any]:
        wanted = (*before.keys, before.successor, before.second, before.lost)
        return [(await store.read(one.access_key, None)).stored for one in wanted]

    ended, rotated, disabled, both, untouched, successor, second, lost = during(settings, look)
    assert (before.ended.create_time, RevokeReason.LEAKED, "n") == (
        *(ended.key.revoke_time, ended.key.revoke_reason, ended.key.revoke_note),
    )
    assert before.rotated.create_time + OVERLAP == rotated.key.supersede_time
    assert held(before.successor).digest == successor.digest
    assert (rotated.lineage, None) == (successor.lineage, successor.key.revoke_time)
    assert both.key.successor_access_key == second.key.access_key
    assert second.key.revoke_time is not None
    assert before.untouched == untouched.key
    assert disabled.key.disabled is False
    assert lost is None
    assert "pepper/2" in during(settings, lambda store: store.key_checks())  # for the successors


@pytest.mark.case(24)
def test_carried_over_rotation_ends_no_later_than_the_key(settings: Config, tmp_path: Path) -> None:
    """An extension after the backup is lost, and the old expiry bounds the overlap."""
    file = tmp_path / "backup.db"

    async def fill(store: Store) -> Key:
        owner = (await create_project(store)).project_id
        return await create(store, key(owner, expire_time=NOON + OVERLAP / 2))

    old = during(settings, fill)
    back_up(settings.store.sqlite_path, file)

    async def go_on(store: Store) -> None:
        longer = replace(old, expire_time=NOON + 9 * OVERLAP)
        await put(store, ChangeType.KEY_UPDATED, longer)
        new = key(old.project_id, predecessor_access_key=old.access_key)
        over = replace(longer, supersede_time=NOON + OVERLAP, successor_access_key=new.access_key)
        rotation = mutation(ChangeType.KEY_ROTATED, over, new, lineage=old.access_key)
        await store.write(applying(rotation))

    during(settings, go_on)
    assert [old.access_key] == restored(settings, file).rotated
    found = during(settings, lambda store: store.get_key(old.access_key, None))
    assert (old.expire_time, old.expire_time) == (found.expire_time, found.supersede_time)


@pytest.mark.case(24)
def test_restore_without_known_revocations_needs_confirmation(
    settings: Config, before: Before
) -> None:
    """Without a database, or with a damaged one, it needs --accept-unknown."""
    database = settings.store.sqlite_path
    SQLITE.rows(str(database), "UPDATE log SET revision = 3")
    there = files(settings.data)
    with pytest.raises(restore.RestoreRefused, match=r"damaged.*--accept-unknown"):
        restored(settings, before.file)
    assert there == files(settings.data)
    done = restored(settings, before.file, accept_unknown=True)
    assert "damaged" in done.unknown
    assert done.aside is not None
    assert there[database.name] == done.aside.read_bytes()
    database.unlink()
    with pytest.raises(restore.RestoreRefused, match=r"no database.*--accept-unknown"):
        restored(settings, before.file)
    done = restored(settings, before.file, accept_unknown=True)
    assert (before.content.keys, None) == (done.content.keys, done.aside)
    assert [] == findings(settings)


@pytest.mark.case(24)
def test_restore_over_an_older_restore_needs_confirmation(
    settings: Config, before: Before, tmp_path: Path
) -> None:
    """Revocations before the earlier restore are in neither database."""
    newer = tmp_path / "newer.db"
    content = back_up(settings.store.sqlite_path, newer)
    SQLITE.rows(str(newer), "DELETE FROM key_check WHERE name = 'pepper/2'")  # no file has it
    during(settings, lambda store: revoke(store, before.lost))
    older = restored(settings, before.file)

    async def go_on(store: Store) -> None:  # until it has as many changes as the newer one
        await revoke(store, before.untouched)
        for _ in range(content.revision - older.content.revision):
            await create_project(store)

    during(settings, go_on)
    with pytest.raises(
        restore.RestoreRefused, match=r"does not continue this backup.*--accept-unknown"
    ):
        restored(settings, newer)
    done = restored(settings, newer, accept_unknown=True)
    assert ([before.untouched.access_key], True) == (done.revoked, "older backup" in done.unknown)
    assert "" == restored(settings, newer).unknown  # now it does


@pytest.mark.case(24)
def test_restore_over_a_fresh_database_needs_confirmation(settings: Config, before: Before) -> None:
    """As on a new machine whose server was started before the restore."""
    keys = [settings.data / name for name in (bootstrap.PEPPER, bootstrap.AUDIT_KEY)]
    kept = [one.read_bytes() for one in keys]
    for one in settings.data.iterdir():
        one.unlink()
    asyncio.run(bootstrap.prepare(settings))
    for one, text in zip(keys, kept, strict=True):
        one.write_bytes(text)
    with pytest.raises(restore.RestoreRefused, match=r"uses another pepper.*--accept-unknown"):
        restored(settings, before.file)
    done = restored(settings, before.file, accept_unknown=True)
    assert ("another pepper" in done.unknown, []) == (True, done.lost)
    assert before.content.keys == done.content.keys
    assert [] == findings(settings)


def test_restore_of_a_foreign_backup_is_refused(
    settings: Config, before: Before, tmp_path: Path
) -> None:
    """A foreign, newer or damaged file, or one with other keys, changes nothing."""
    text, other, newer, damaged = (tmp_path / name for name in ("text", "other", "newer", "cut"))
    text.write_text("no database\n" * 1000)
    SQLITE.rows(str(other), "CREATE TABLE theirs (a)")
    shutil.copyfile(before.file, newer)
    later = "INSERT INTO _sqlite_migrations VALUES (99, 'keyauthority', '9999_later', '')"
    SQLITE.rows(str(newer), later)
    shutil.copyfile(before.file, damaged)
    SQLITE.rows(str(damaged), "UPDATE log SET hash = x'00'")
    there = files(settings.data)
    for file, why in (
        (text, "damaged, or not a SQLite"),
        (other, "another application"),
        (newer, "newer version"),
        (damaged, "damaged"),
        (tmp_path / "none", "there is no file"),
        (settings.store.sqlite_path, "the present database"),
    ):
        with pytest.raises(ConfigError, match=why):
            restored(settings, file, accept_unknown=True)
    pepper = settings.data / bootstrap.PEPPER
    pepper.write_text(f"1 {'0' * 64}\n")
    with pytest.raises(ConfigError, match="put the right file back"):
        restored(settings, before.file, accept_unknown=True)
    assert there | {pepper.name: pepper.read_bytes()} == files(settings.data)


@pytest.mark.case(24)
def test_killed_restore_leaves_the_old_or_the_new_database(
    settings: Config, before: Before, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At any step one of them is complete, and no key is revived."""
    whole = tmp_path / "whole"
    shutil.copytree(settings.data, whole)
    steps = ("os.link", "os.fsync", "pathlib.Path.replace")
    for step in (*steps, "keyauthority_server.store.sqlite.restore.save_head"):
        shutil.rmtree(settings.data)
        shutil.copytree(whole, settings.data)

        with monkeypatch.context() as patch:
            patch.setattr(step, _killed)
            with pytest.raises(KeyboardInterrupt):
                restored(settings, before.file)
        found = during(settings, lambda store: store.get_key(before.ended.access_key, None))
        assert found.revoke_time is not None, step
        assert [] == findings(settings)


def _killed(*_: object, **__: object) -> None:
    raise KeyboardInterrupt
