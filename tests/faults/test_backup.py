"""Backup under load, restore, oracle; what a restore takes over, and what it refuses."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import stat
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from keyauthority.model import ChangeType, Key, RevokeReason
from keyauthority_server import bootstrap, config, restoring
from keyauthority_server.audit import sealer, verify
from keyauthority_server.config import Config, ConfigError
from keyauthority_server.peppers import Keyring
from keyauthority_server.store import sqlite_backup, sqlite_restore
from keyauthority_server.store.base import Store, StoreRefused
from keyauthority_server.store.sqlite import open_store
from keyauthority_server.store.sqlite_backup import Content, back_up
from tests.conftest import Start
from tests.faults.journal import CREATE, REVOKE, Journal, SqliteStore, judge, write_half
from tests.faults.test_kills import calling
from tests.service.callers import new_project
from tests.service.nursery import shared
from tests.service.processes import command, environment, wait_until
from tests.store.engines import Sqlite
from tests.store.making import applying, create, create_project, held, key, mutation, project, put

WRITERS: Final = 4
WRITES: Final = 20
OVERLAP: Final = timedelta(hours=1)
SQLITE: Final = Sqlite()


@pytest.fixture
def settings(tmp_path: Path) -> Config:
    """The configuration of a data folder that has had its first start."""
    made = config.load({"data": str(tmp_path / "data")}, {})
    (tmp_path / "data").mkdir(mode=0o700)
    asyncio.run(bootstrap.prepare(made))
    return made


def during(settings: Config, work: Callable[[Store], Any]) -> Any:
    """Do something to the store of a data folder, as a server would."""

    async def done() -> Any:
        audit_key = Keyring.load(settings.data / bootstrap.AUDIT_KEY)
        store = open_store(settings.store.sqlite_path, sealer(audit_key))
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(done())


def findings(settings: Config) -> list[Any]:
    """What the verification of the log says."""

    async def found() -> list[Any]:
        async with bootstrap.open_evidence(settings) as (store, audit_key):
            return list((await verify(store, audit_key, None)).findings)

    return asyncio.run(found())


def restored(settings: Config, file: Path, **flags: bool) -> restoring.Restored:
    """Restore a file; without a flag, as one does who gives none."""
    return restoring.restore(
        settings, file, **({"accept_unknown": False, "dry_run": False} | flags)
    )


def files(folder: Path) -> dict[str, bytes]:
    """What lies in a folder, but for locks and what SQLite keeps of its processes."""
    passing = (".lock", ".gate", "-shm", "-wal")
    return {
        one.name: one.read_bytes() for one in folder.iterdir() if not one.name.endswith(passing)
    }


@pytest.mark.case(24)
def test_backup_under_load_brings_back_what_it_holds(start_server: Start, tmp_path: Path) -> None:
    """All that was acknowledged before the backup is in it, and no later revocation is undone."""
    server = start_server("--transport", "native", "--workers", "2")
    file, stop = tmp_path / "backup.db", threading.Event()
    with calling(server) as caller, ThreadPoolExecutor(WRITERS) as pool:
        journal = Journal(new_project(caller))
        clients = [pool.submit(write_half, caller, journal, stop) for _ in range(WRITERS)]
        try:
            wait_until(lambda: len(journal.acknowledged(CREATE)) >= WRITES)
            before = {line.access_key for line in journal.acknowledged(CREATE)}
            told = shared().run("backup", str(file), "--data", str(server.data))
            seen = len(journal.acknowledged(REVOKE))
            wait_until(lambda: len(journal.acknowledged(REVOKE)) >= seen + WRITES)
        finally:
            stop.set()
    assert [None] * WRITERS == [client.result() for client in clients]
    assert (0, 0o600) == (told.code, stat.S_IMODE(file.stat().st_mode))
    old = journal.acknowledged(REVOKE)
    in_use = shared().run("restore", str(file), "--data", str(server.data))
    assert (2, True) == (in_use.code, "another server" in in_use.log)
    server.stop()
    back = shared().run("restore", str(file), "--data", str(server.data))
    assert 0 == back.code, back.log
    assert told.output.split()[0] != back.output.splitlines()[-1].split()[0]  # the log's id
    store = SqliteStore(server.data)
    there = store.made().keys
    assert before <= there
    undone = [line.access_key for line in old if line.access_key in there]
    assert f"kept as {server.data}" in back.output
    kept = [line for line in journal.lines if line.access_key in there]
    with calling(start_server("--transport", "native")) as caller:
        judge(Journal(journal.project_id, kept), caller, store)
    assert undone


def test_backup_takes_the_place_of_nothing(settings: Config, tmp_path: Path) -> None:
    """A file that is there is left as it is, be it a link that leads nowhere."""
    there, link = tmp_path / "there", tmp_path / "link"
    there.write_text("mine")
    link.symlink_to(tmp_path / "nowhere")
    for file in (there, link):
        with pytest.raises(StoreRefused, match="is there already"):
            back_up(settings.store.sqlite_path, file)
    assert "mine" == there.read_text()


def test_backup_that_fails_or_is_killed_leaves_nothing_by_its_name(
    settings: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is copied is another file until it is whole; a damaged database is no backup."""
    database, folder = settings.store.sqlite_path, tmp_path / "backups"
    folder.mkdir()
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    program = (
        "import sys; from pathlib import Path; from keyauthority_server.store import sqlite_backup;"
        "sqlite_backup.check_copy = lambda _: Path(sys.argv[3]).open('w').close() or input();"
        "sqlite_backup.back_up(*map(Path, sys.argv[1:3]))"
    )
    arguments = (str(database), str(folder / "killed.db"), str(fifo))
    with subprocess.Popen(
        [*command()[:1], "-c", program, *arguments], env=environment(), stdin=subprocess.PIPE
    ) as process:
        fifo.read_bytes()  # from here on it waits
        process.send_signal(signal.SIGKILL)
    (left,) = folder.iterdir()
    assert left.name.endswith(".part")
    left.unlink()
    SQLITE.rows(str(database), "DELETE FROM key_check WHERE name = 'pepper/1'")
    SQLITE.rows(str(database), "UPDATE log SET revision = revision + 1")
    with pytest.raises(StoreRefused, match="damaged"):
        back_up(database, folder / "damaged.db")
    assert [] == list(folder.iterdir())
    monkeypatch.setattr(sqlite_backup, "check_head", lambda *_: None)  # the control
    monkeypatch.setattr(sqlite_backup, "check_copy", lambda _: Content("", 0, 0))  # type: ignore[arg-type]  # whatever
    back_up(database, folder / "damaged.db")


class Before:
    """A data folder with a backup, and what came after that."""

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
        gone: dict[str, Any] = {"revoke_time": now, "revoke_reason": RevokeReason.LEAKED}
        await put(store, ChangeType.KEY_REVOKED, replace(self.ended, **gone, revoke_note="n"))
        for old, new in ((self.rotated, self.successor), (self.both, self.second)):
            previous = replace(
                old, supersede_time=now + OVERLAP, successor_access_key=new.access_key
            )
            rotation = mutation(ChangeType.KEY_ROTATED, previous, new, lineage=old.access_key)
            await store.write(applying(rotation))
        await put(store, ChangeType.KEY_REVOKED, replace(self.second, **gone))
        await put(store, ChangeType.KEY_UPDATED, replace(self.disabled, disabled=True))
        await put(store, ChangeType.KEY_CREATED, self.lost)
        await put(store, ChangeType.PROJECT_CREATED, project())
        await store.set_key_checks({"pepper/2": b"of a pepper that came later"})


@pytest.fixture
def before(settings: Config, tmp_path: Path) -> Before:
    """A backup, and what came after it."""
    return Before(settings, tmp_path / "backup.db")


@pytest.mark.case(24)
def test_restore_takes_over_what_is_final(settings: Config, before: Before) -> None:
    """Revocations and rotations stay, as changes of the restored log; the rest is counted."""
    rehearsed = restored(settings, before.file, dry_run=True)
    done = restored(settings, before.file)
    wanted = ([before.ended.access_key, before.second.access_key], [before.lost.access_key])
    for told in (rehearsed, done):
        assert wanted == (told.revoked, told.lost)
        assert [before.rotated.access_key, before.both.access_key] == told.rotated
        assert sqlite_restore.Undone(1, 0, 0, 0, 1) == told.undone
        assert "" == told.unknown
    assert before.content == rehearsed.content == done.backup
    assert before.content.log_id != done.content.log_id
    assert (before.content.revision + 4, before.content.keys + 2) == done.content[1:]
    assert done.aside is not None
    assert done.aside.exists()
    assert [] == findings(settings)

    async def look(store: Store) -> list[Any]:
        wanted = (*before.keys, before.successor, before.second, before.lost)
        return [(await store.look(one.access_key, None)).held for one in wanted]

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
def test_restore_that_cannot_know_revocations_asks(settings: Config, before: Before) -> None:
    """With no database there, or one that is damaged, it goes on only when told to."""
    database = settings.store.sqlite_path
    SQLITE.rows(str(database), "UPDATE log SET revision = 3")
    there = files(settings.data)
    with pytest.raises(ConfigError, match=r"damaged.*--accept-unknown"):
        restored(settings, before.file)
    assert there == files(settings.data)
    done = restored(settings, before.file, accept_unknown=True)
    assert "damaged" in done.unknown
    assert done.aside is not None
    assert there[database.name] == done.aside.read_bytes()
    database.unlink()
    with pytest.raises(ConfigError, match=r"no database.*--accept-unknown"):
        restored(settings, before.file)
    done = restored(settings, before.file, accept_unknown=True)
    assert (before.content.keys, None) == (done.content.keys, done.aside)
    assert [] == findings(settings)


def test_restore_refuses_what_is_no_backup_of_this_folder(
    settings: Config, before: Before, tmp_path: Path
) -> None:
    """Nothing is changed by a file that is another's, newer, damaged, or of other keys."""
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
        (text, "damaged, or no SQLite"),
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
    with pytest.raises(ConfigError, match="put the right one back"):
        restored(settings, before.file, accept_unknown=True)
    assert there | {pepper.name: pepper.read_bytes()} == files(settings.data)


@pytest.mark.case(24)
def test_restore_that_is_killed_leaves_one_of_the_two(
    settings: Config, before: Before, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At whichever step it ends: the old or the new is there, whole, and no key is back."""
    whole = tmp_path / "whole"
    shutil.copytree(settings.data, whole)
    steps = ("os.link", "os.fsync", "pathlib.Path.replace")
    for step in (*steps, "keyauthority_server.store.sqlite_restore.note_head"):
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
