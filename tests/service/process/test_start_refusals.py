"""Conditions that prevent a start: exit code 2 or 3, one line, no damage."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Start
from tests.service import processes
from tests.service.forkserver import shared
from tests.service.processes import shim


def refusal(
    data: Path,
    *flags: str,
    listen: str = "127.0.0.1:0",
    shim_folder: Path | None = None,
    code: int = 2,
) -> str:
    """The one line that a start is refused with: with code 2 for good, with 3 for now."""
    path = os.pathsep.join(filter(None, [str(shim_folder or ""), os.environ.get("PYTHONPATH", "")]))
    run = processes.run if shim_folder else shared().run
    outcome = run(
        "serve",
        *("--data", str(data), "--listen", listen, *flags),
        settings={"PYTHONPATH": path},
    )
    assert (code, "") == (outcome.code, outcome.output)
    lines = [line for line in outcome.log.splitlines() if line.startswith("keyauthority-server: ")]
    assert 1 == len(lines), outcome.log
    assert "Traceback" not in outcome.log
    return lines[0].removeprefix("keyauthority-server: ")


def test_second_server_on_the_same_folder_is_refused(start_server: Start, data: Path) -> None:
    """A data folder has one server, also if the second one uses another address."""
    server = start_server()
    assert f"another server is using the data folder {data}" == refusal(data, code=3)
    assert 0 == server.stop().code


def test_port_of_another_server_is_refused(
    start_server: Start, transport: str, tmp_path: Path
) -> None:
    """Workers share a port, but no other server may join it."""
    address = start_server("--transport", transport).address
    line = refusal(tmp_path / "other", "--transport", transport, listen=address, code=3)
    assert f"cannot listen on {address}: Address already in use" == line


def test_port_of_a_foreign_listener_is_refused(tmp_path: Path) -> None:
    """A foreign listener is noticed even if it would share its port."""
    with socket.socket() as foreign:
        foreign.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        foreign.bind(("127.0.0.1", 0))
        foreign.listen()
        address = f"127.0.0.1:{foreign.getsockname()[1]}"
        line = refusal(tmp_path / "data", listen=address, code=3)
    assert f"cannot listen on {address}: Address already in use" == line


def test_metrics_port_in_use_is_refused(tmp_path: Path) -> None:
    """The server does not start without its metrics endpoint."""
    with socket.socket() as foreign:
        foreign.bind(("127.0.0.1", 0))
        foreign.listen()
        address = f"127.0.0.1:{foreign.getsockname()[1]}"
        line = refusal(tmp_path / "data", "--metrics", address, code=3)
    assert f"cannot listen for metrics on {address}: Address already in use" == line


def test_unix_socket_of_another_server_is_refused(
    start_server: Start, transport: str, tmp_path: Path
) -> None:
    """A served path is not taken over."""
    listen = f"unix:{tmp_path / 'socket'}"
    server = start_server("--transport", transport, listen=listen)
    line = refusal(tmp_path / "other", "--transport", transport, listen=listen, code=3)
    assert f"{listen} is in use by another server" == line
    assert 0 == server.stop().code


def test_unix_socket_of_a_foreign_server_is_refused(tmp_path: Path) -> None:
    """A listener that does not use our lock is noticed too."""
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as foreign:
        foreign.bind(str(path))
        foreign.listen()
        line = refusal(tmp_path / "data", listen=f"unix:{path}", code=3)
    assert f"unix:{path} is in use by another server" == line


def test_file_at_the_unix_socket_path_is_kept(tmp_path: Path) -> None:
    """A path that is not a socket is never deleted."""
    path = tmp_path / "socket"
    path.write_text("mine")
    expected = f"{path} exists and is not a socket: remove it, or choose another path"
    assert expected == refusal(tmp_path / "data", listen=f"unix:{path}")
    assert "mine" == path.read_text()


def test_missing_native_transport_is_refused(tmp_path: Path) -> None:
    """`--transport native` never falls back to another transport."""
    without = shim(tmp_path / "shim", "import sys; sys.modules['pygrpc_native'] = None")
    line = refusal(tmp_path / "data", "--transport", "native", shim_folder=without)
    assert "--transport native needs pygrpc-native: install keyauthority[native]" == line


def test_missing_extra_is_refused_in_one_line() -> None:
    """The base install has the program, and nothing that it needs."""
    script = (
        "import sys; sys.modules['structlog'] = None\n"
        "from keyauthority_server.__main__ import main; main()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, "--version"], check=False, capture_output=True, text=True
    )
    expected = "keyauthority-server: the server needs more: install keyauthority[server]\n"
    assert (2, "", expected) == (ended.returncode, ended.stdout, ended.stderr)


def test_unsafe_sqlite_is_limited_to_one_worker(tmp_path: Path) -> None:
    """Two processes must not write with SQLite before 3.51.3."""
    affected = shim(
        tmp_path / "shim",
        "import pysqlite3; pysqlite3.sqlite_version_info = (3, 51, 2)",
    )
    line = refusal(tmp_path / "data", "--workers", "2", shim_folder=affected)
    assert line.startswith("this SQLite can corrupt a database that several processes write")


def test_pepper_readable_by_others_is_refused(start_server: Start, data: Path) -> None:
    """The start reports an exposed pepper and does not use it."""
    start_server().stop()
    (data / "pepper").chmod(0o644)
    assert str(data / "pepper") in refusal(data)


def test_open_folder_with_foreign_files_is_refused(tmp_path: Path) -> None:
    """Closing it would lock out the users of those files."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "foreign").touch()
    data.chmod(0o755)
    line = refusal(data)
    assert f"{data} is open to others; make it private: chmod 700 {data}" == line
    assert 0o755 == data.stat().st_mode & 0o777


def test_empty_folder_is_made_private(start_server: Start, data: Path) -> None:
    """A fresh volume with the modes of its mount is closed and used."""
    data.mkdir()
    data.chmod(0o755)
    start_server()
    assert 0o700 == data.stat().st_mode & 0o777


@pytest.mark.parametrize("action", ["init", "migrate"])
def test_offline_commands_on_a_folder_in_use_are_refused(
    start_server: Start, data: Path, action: str
) -> None:
    """Commands that need the folder for themselves do not run beside its server."""
    start_server()
    outcome = shared().run(action, "--data", str(data))
    line = f"keyauthority-server: another server is using the data folder {data}\n"
    assert (3, "", line) == outcome
