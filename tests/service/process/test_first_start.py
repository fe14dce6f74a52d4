"""The first start: what it creates and prints, and starts that refuse to create."""

from __future__ import annotations

import json
import os
import pty
import re
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.conftest import Start
from tests.service import processes
from tests.service.forkserver import shared
from tests.service.processes import command, environment, shim


def run(*words: str, data: Path, **settings: str) -> processes.Outcome:
    """Run a command on a data folder."""
    return shared().run(*words, settings={"KEYAUTHORITY_DATA": str(data), **settings})


def test_first_start_logs_what_it_created(tmp_path: Path) -> None:
    """It logs folder, log_id and operator key file as a warning; a second start does not."""
    data = tmp_path / "data"
    first, second = (run("init", "--log-format", "json", data=data) for _ in range(2))
    (line,) = map(json.loads, first.log.splitlines())
    assert ("authority_founded", "warning") == (line["event"], line["level"])
    assert (str(data), f"{data}/operator.key") == (line["data"], line["operator_key"])
    head = (data / "keyauthority.db.head").read_text(encoding="ascii")
    assert head.startswith(line["log_id"])
    assert (0, "") == (second.code, second.log)


@contextmanager
def terminal() -> Iterator[tuple[int, Callable[[], str]]]:
    """Yield a terminal's descriptor, and a function that returns the text printed to it."""
    reading, writing = pty.openpty()
    try:
        yield writing, lambda: os.read(reading, 65536).decode().replace("\r\n", "\n")
    finally:
        os.close(writing)
        os.close(reading)


def test_init_on_a_terminal_prints_version_folder_and_next_steps(tmp_path: Path) -> None:
    """The next step is the start of the server; a path with a space is quoted."""
    data = tmp_path / "data folder"
    with terminal() as (descriptor, printed):
        subprocess.run(
            command("init", "--data", str(data)),
            check=True,
            env=environment(),
            stderr=descriptor,
            stdout=subprocess.DEVNULL,
            timeout=90,
        )
        shown = printed()
    assert f"keyauthority-server {version('keyauthority')}: " in shown
    assert f"data folder: {data} (" in shown
    assert f": {data}/operator.key\n" in shown
    assert f"  keyauthority-server serve --data '{data}'\n" in shown
    assert "  export KEYAUTHORITY_ADDRESS=127.0.0.1:50051\n" in shown


def test_commands_printed_by_a_first_start_work(tmp_path: Path) -> None:
    """In another terminal they create a key, once the project's id is filled in."""
    data = tmp_path / "data folder"
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    with (
        terminal() as (descriptor, printed),
        subprocess.Popen(
            command("serve", "--data", str(data), "--listen", "127.0.0.1:0"),
            env=environment(),
            stderr=descriptor,
            stdout=subprocess.PIPE,
            text=True,
        ) as server,
        ExitStack() as stack,
    ):
        stack.callback(server.terminate)
        assert server.stdout
        assert "ready on" in server.stdout.readline()
        _, _, steps = printed().partition("in another terminal:\n")
        (*exports, listing, creation) = re.findall("^  (.+)$", steps, re.MULTILINE)
        assert (2, "keyauthority projects list") == (len(exports), listing)
        filled = creation.replace("PROJECT_ID", "$(keyauthority projects list -o name)")
        created = subprocess.run(
            ["/bin/sh", "-ec", "\n".join([*exports, listing, filled])],
            check=False,
            env=environment({"PATH": path}),
            stderr=subprocess.STDOUT,
            stdout=subprocess.PIPE,
            text=True,
            timeout=90,
        )
    assert (0, True) == (created.returncode, "sk_test_KA" in created.stdout), created.stdout


def test_must_exist_creates_nothing(tmp_path: Path) -> None:
    """With a missing or empty folder or database, --must-exist fails and creates nothing."""
    data = tmp_path / "data"
    absent = run("serve", "--must-exist", data=data)
    assert (2, False) == (absent.code, data.exists())
    assert f"--must-exist: {data}/pepper is missing" in absent.log
    data.mkdir(mode=0o700)
    empty = run("serve", data=data, KEYAUTHORITY_MUST_EXIST="true")
    assert (2, []) == (empty.code, list(data.iterdir()))
    assert 0 == run("init", data=data).code
    database = data / "keyauthority.db"
    kept = database.read_bytes()
    database.unlink()
    assert f"--must-exist: {database} is missing" in run("serve", "--must-exist", data=data).log
    database.touch(mode=0o600)
    refused = run("serve", "--must-exist", data=data)
    assert (2, 0) == (refused.code, database.stat().st_size)
    assert f"--must-exist: {database} is empty" in refused.log
    database.write_bytes(kept)


def test_must_exist_serves_an_initialized_folder(start_server: Start, data: Path) -> None:
    """A folder and store that were used before are served."""
    assert 0 == shared().run("init", "--data", str(data)).code
    assert 0 == start_server("--must-exist").stop().code


@pytest.mark.parametrize("mode", [0o666, 0o660])
def test_unix_socket_mode_is_independent_of_umask(
    start_server: Start, transport: str, tmp_path: Path, mode: int
) -> None:
    """By default the folder decides who connects; --socket-mode narrows it."""
    path = tmp_path / "socket"
    flags = () if mode == 0o666 else ("--socket-mode", "0660")
    start_server("--transport", transport, *flags, listen=f"unix:{path}")
    assert oct(mode) == oct(stat.S_IMODE(path.stat().st_mode))


NO_FLOCK = """
import errno, fcntl, os
def refuse(*_):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
fcntl.flock = refuse
"""


@pytest.mark.parametrize("words", ["init", "serve --listen 127.0.0.1:0", "migrate"])
def test_file_system_without_locks_is_one_error_line(tmp_path: Path, words: str) -> None:
    """It names path, cause and remedy; the exit code says that a retry is useless."""
    folder = shim(tmp_path / "shim", NO_FLOCK)
    data = tmp_path / "data"
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    outcome = processes.run(*words.split(), "--data", str(data), settings={"PYTHONPATH": path})
    line = (
        f"keyauthority-server: cannot lock {data}/supervisor.lock, move it to a file system with "
        f"locks, such as a local disk: No locks available\n"
    )
    assert (2, line) == (outcome.code, outcome.log)
