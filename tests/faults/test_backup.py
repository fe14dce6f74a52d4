"""Backup under load, restore, and backups that fail or are killed."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

from keyauthority_server.config import Config
from keyauthority_server.store.interface import StoreUnusable
from keyauthority_server.store.sqlite import backup
from keyauthority_server.store.sqlite.backup import Content, back_up
from tests.conftest import Start
from tests.faults.oracle import CREATE, REVOKE, Journal, SqliteStore, judge, write_half
from tests.faults.test_kills import calling
from tests.service.callers import new_project
from tests.service.forkserver import shared
from tests.service.processes import command, environment, wait_until
from tests.store.engines import Sqlite

WRITERS: Final = 4
WRITES: Final = 20
SQLITE: Final = Sqlite()


@pytest.mark.case(24)
def test_restored_backup_under_load_holds_every_acknowledged_change(
    start_server: Start, tmp_path: Path
) -> None:
    """It has all changes before the backup, and no later revocation is undone."""
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
    assert (3, True) == (in_use.code, "another server" in in_use.log)
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


def test_backup_overwrites_no_existing_file(settings: Config, tmp_path: Path) -> None:
    """An existing file stays unchanged, a dangling link included."""
    there, link = tmp_path / "there", tmp_path / "link"
    there.write_text("mine")
    link.symlink_to(tmp_path / "nowhere")
    for file in (there, link):
        with pytest.raises(StoreUnusable, match="name a new file"):
            back_up(settings.store.sqlite_path, file)
    assert "mine" == there.read_text()


def test_failed_or_killed_backup_leaves_no_file_of_its_name(
    settings: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy has another name until it is complete; a damaged database is refused."""
    database, folder = settings.store.sqlite_path, tmp_path / "backups"
    folder.mkdir()
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    program = (
        "import sys; from pathlib import Path; from keyauthority_server.store.sqlite import backup;"
        "backup.check_copy = lambda _: Path(sys.argv[3]).open('w').close() or input();"
        "backup.back_up(*map(Path, sys.argv[1:3]))"
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
    with pytest.raises(StoreUnusable, match="damaged"):
        back_up(database, folder / "damaged.db")
    assert [] == list(folder.iterdir())
    monkeypatch.setattr(backup, "check_head", lambda *_: None)  # the control
    monkeypatch.setattr(backup, "check_copy", lambda _: Content("", 0, 0))  # type: ignore[arg-type]  # whatever
    back_up(database, folder / "damaged.db")
