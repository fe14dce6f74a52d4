"""What the server refuses to start with: exit code 2 or 3 and one line, nothing harmed."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tests.conftest import Start
from tests.service import processes
from tests.service.forkserver import shared


def refusal(
    data: Path,
    *flags: str,
    listen: str = "127.0.0.1:0",
    shim: Path | None = None,
    code: int = 2,
) -> str:
    """The one line that a start is refused with: with code 2 for good, with 3 for now."""
    path = os.pathsep.join(filter(None, [str(shim or ""), os.environ.get("PYTHONPATH", "")]))
    run = processes.run if shim else shared().run
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


def shim(folder: Path, code: str) -> Path:
    """Make a folder that changes what the server finds installed, if put on its path."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(code)
    return folder


def test_second_server_on_the_same_folder_is_refused(start_server: Start, data: Path) -> None:
    """A data folder has one server, whatever address the second asks for."""
    server = start_server()
    assert f"another server is using the data folder {data}" == refusal(data, code=3)
    assert 0 == server.stop().code


def test_port_of_another_server_is_refused(
    start_server: Start, transport: str, tmp_path: Path
) -> None:
    """Sharing the port among workers lets no other server join it."""
    address = start_server("--transport", transport).address
    line = refusal(tmp_path / "other", "--transport", transport, listen=address, code=3)
    assert f"cannot listen on {address}: Address already in use" == line


def test_port_of_a_foreign_listener_is_refused(tmp_path: Path) -> None:
    """Even a listener that would share its port is noticed."""
    with socket.socket() as foreign:
        foreign.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        foreign.bind(("127.0.0.1", 0))
        foreign.listen()
        address = f"127.0.0.1:{foreign.getsockname()[1]}"
        line = refusal(tmp_path / "data", listen=address, code=3)
    assert f"cannot listen on {address}: Address already in use" == line


def test_metrics_port_in_use_is_refused(tmp_path: Path) -> None:
    """An endpoint for metrics that cannot be had is no matter to start without."""
    with socket.socket() as foreign:
        foreign.bind(("127.0.0.1", 0))
        foreign.listen()
        address = f"127.0.0.1:{foreign.getsockname()[1]}"
        line = refusal(tmp_path / "data", "--metrics", address, code=3)
    assert f"cannot listen for metrics on {address}: Address already in use" == line


def test_unix_socket_of_another_server_is_refused(
    start_server: Start, transport: str, tmp_path: Path
) -> None:
    """A path that is being served is not silently taken over."""
    listen = f"unix:{tmp_path / 'socket'}"
    server = start_server("--transport", transport, listen=listen)
    line = refusal(tmp_path / "other", "--transport", transport, listen=listen, code=3)
    assert f"{listen} is in use by another server" == line
    assert 0 == server.stop().code


def test_unix_socket_of_a_foreign_server_is_refused(tmp_path: Path) -> None:
    """A listener that knows nothing of our lock is noticed too."""
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as foreign:
        foreign.bind(str(path))
        foreign.listen()
        line = refusal(tmp_path / "data", listen=f"unix:{path}", code=3)
    assert f"unix:{path} is in use by another server" == line


def test_file_in_the_place_of_the_unix_socket_is_left_alone(tmp_path: Path) -> None:
    """A file that is not a socket blocks the start and stays."""
    path = tmp_path / "socket"
    path.write_text("mine")
    expected = f"{path} exists and is not a socket: remove it, or choose another path"
    assert expected == refusal(tmp_path / "data", listen=f"unix:{path}")
    assert "mine" == path.read_text()


def test_native_transport_that_is_not_installed_is_refused(tmp_path: Path) -> None:
    """Who asks for the native front gets it or is told."""
    without = shim(tmp_path / "shim", "import sys; sys.modules['pygrpc_native'] = None")
    line = refusal(tmp_path / "data", "--transport", "native", shim=without)
    assert "--transport native needs pygrpc-native: install keyauthority[native]" == line


def test_sqlite_that_corrupts_takes_one_worker_only(tmp_path: Path) -> None:
    """An SQLite before 3.51.3 is not written by two processes."""
    affected = shim(
        tmp_path / "shim",
        "import pysqlite3; pysqlite3.sqlite_version_info = (3, 51, 2)",
    )
    line = refusal(tmp_path / "data", "--workers", "2", shim=affected)
    assert line.startswith("this SQLite can corrupt a database that several processes write")


def test_pepper_that_others_can_read_is_refused(start_server: Start, data: Path) -> None:
    """A pepper open to others is told, not used."""
    start_server().stop()
    (data / "pepper").chmod(0o644)
    assert str(data / "pepper") in refusal(data)


def test_folder_that_is_open_to_others_is_refused_if_it_is_not_ours(tmp_path: Path) -> None:
    """A folder with foreign files is not closed to those who use them."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "foreign").touch()
    data.chmod(0o755)
    line = refusal(data)
    assert f"{data} is open to others; make it private: chmod 700 {data}" == line
    assert 0o755 == data.stat().st_mode & 0o777


def test_empty_folder_is_made_private(start_server: Start, data: Path) -> None:
    """A fresh volume, open as it is mounted, is closed and used."""
    data.mkdir()
    data.chmod(0o755)
    start_server()
    assert 0o700 == data.stat().st_mode & 0o777


@pytest.mark.parametrize("action", ["init", "migrate"])
def test_actions_on_a_folder_in_use_are_refused(
    start_server: Start, data: Path, action: str
) -> None:
    """What works on the folder alone does not run beside its server."""
    start_server()
    outcome = shared().run(action, "--data", str(data))
    line = f"keyauthority-server: another server is using the data folder {data}\n"
    assert (3, "", line) == outcome
