"""Starts on hostile platforms: the server works, or ends with one line that says what to do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from tests.service.processes import environment, run, shim, start
from tests.service.tls_world import World

# A signal arrives while the program's modules load: whoever imports structlog or grpc gets it.
_INTERRUPTED: Final = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # tests may run in the background
signal.pthread_sigmask(signal.SIG_BLOCK, {blocked})
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name in ("grpc", "structlog"):
            os.kill(os.getpid(), {number})
sys.meta_path.insert(0, Interrupting())
from {module} import main
sys.argv = ["program"]
main()
"""
_LIMITED: Final = """
import os, resource, sys
{prelude}
os.execv(sys.argv[1], sys.argv[1:])
"""
_NO_THREADS: Final = """
import threading
def refuse(self):
    raise RuntimeError("can't start new thread")
threading.Thread.start = refuse
"""


@pytest.mark.parametrize("blocked", [(), (signal.SIGINT, signal.SIGTERM)], ids=["", "blocked"])
@pytest.mark.parametrize("module", ["keyauthority_server.__main__", "keyauthority_cli"])
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)]
)
def test_signal_while_modules_load_ends_without_a_traceback(
    module: str, number: signal.Signals, code: int, blocked: tuple[signal.Signals, ...]
) -> None:
    """As shells report it: 130 after SIGINT, the signal itself after SIGTERM.

    Also if the parent of the program has blocked them.
    """
    script = _INTERRUPTED.format(
        number=int(number), module=module, blocked=tuple(map(int, blocked))
    )
    ended = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        check=False,
        text=True,
        env=environment(),
        timeout=60,
    )
    assert (code, "", "") == (ended.returncode, ended.stdout, ended.stderr)


def shimmed(folder: Path, code: str) -> dict[str, str]:
    """Return the environment of processes that run `code` first."""
    paths = [str(shim(folder / "shim", code)), os.environ.get("PYTHONPATH")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def limited(prelude: str) -> Sequence[str]:
    """Return the program with a prelude before it."""
    script = _LIMITED.format(prelude=prelude)
    return (sys.executable, "-c", script, sys.executable, "-m", "keyauthority_server")


_POOR: Final = """
os.environ.pop("HOME", None)
os.environ.update(TMPDIR="/nonexistent", LC_ALL="POSIX", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))
"""


def test_server_works_on_a_poor_platform(tmp_path: Path) -> None:
    """64 descriptors, small files, an ASCII locale, no TMPDIR, no HOME."""
    server = start(tmp_path / "data folder", program=limited(_POOR))
    assert 0 == server.stop().code
    assert "Traceback" not in server.log_text()


_ONLY_DATA_IS_WRITABLE: Final = """
import tempfile
tempfile._candidate_tempdir_list = lambda: []
"""


@pytest.mark.parametrize("length", [1, 120])
def test_server_needs_no_writable_folder_except_data(tmp_path: Path, length: int) -> None:
    """With a read-only root, TLS is served from a data folder of any length of path.

    A start removes the sockets of a server that was killed, an end its own.
    """
    starting = partial(start, settings=shimmed(tmp_path, _ONLY_DATA_IS_WRITABLE))
    folder = tmp_path / ("d" * length)
    folder.mkdir()
    with ExitStack() as stack:
        world = World(folder, stack)
        world.serve(start=starting)
        data = world.server.data
        (abandoned,) = data.glob("sockets-*")
        world.server.kill()
        assert abandoned.exists()
        world.serve(start=starting)
        (used,) = data.glob("sockets-*")
        assert used != abandoned
        assert list(world.gateway().list_projects())
    assert [] == list(data.glob("sockets-*"))


def test_umask_does_not_close_files_to_their_owner(tmp_path: Path) -> None:
    """Under umask 0777 the folder is 0700, its files 0600."""
    data = tmp_path / "data"
    assert 0 == run("init", "--data", str(data), program=limited("os.umask(0o777)")).code
    assert {0o600} == {path.stat().st_mode & 0o777 for path in data.iterdir()}
    assert 0o700 == data.stat().st_mode & 0o777


def test_too_few_descriptors_is_named_with_the_remedy(tmp_path: Path) -> None:
    """It names the limit, not locks of the file system."""
    prelude = "resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))"
    ended = run("init", "--data", str(tmp_path / "data"), program=limited(prelude))
    assert (3, 1) == (ended.code, len(ended.log.splitlines()))
    assert "ulimit -n" in ended.log


def test_too_few_processes_is_named_with_the_remedy(tmp_path: Path) -> None:
    """A thread that cannot start ends the program with one line."""
    settings = shimmed(tmp_path, _NO_THREADS)
    ended = run("init", "--data", str(tmp_path / "data"), settings=settings)
    assert (3, 1) == (ended.code, len(ended.log.splitlines()))
    assert "ulimit -u" in ended.log
