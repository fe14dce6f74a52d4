"""A module-level verifier under gunicorn: preloaded, and with patched threads."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.client.records import TOKEN
from tests.conftest import one_server
from tests.service.processes import ServerProcess

SECONDS: Final = 60.0  # on a machine that is busy; alone a worker takes 3
APPLICATION: Final = """
import os
import sys
import keyauthority

client = keyauthority.Client(os.environ["ADDRESS"], operator_key=os.environ["OPERATOR_KEY"])
verifier = keyauthority.Verifier(client).__enter__()
if "gevent" not in sys.modules:
    verifier.wait_until_fresh(20)
parent = os.getpid()


def application(environ, start_response):
    try:
        verdict = verifier.verify(os.environ["TOKEN"]).code
        text = f"{verdict} {verifier.wait_until_fresh(20)} {os.getpid() != parent}"
    except keyauthority.KeyAuthorityError as error:
        text = str(error)
    start_response("200 OK", [])
    return [text.encode()]
"""

GEVENT: Final = """
def post_worker_init(worker):
    import grpc.experimental.gevent
    grpc.experimental.gevent.init_gevent()
"""


@contextmanager
def _gunicorn(server: ServerProcess, folder: Path, *flags: str) -> Iterator[str]:
    """Run the application with one worker, and give its URL."""
    (folder / "application.py").write_text(APPLICATION, encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        descriptor = listener.fileno()
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "gunicorn", "--bind", f"fd://{descriptor}"),
                *("--log-level", "error", "--no-control-socket", *flags, "application"),
            ],
            cwd=folder,
            env=os.environ
            | {"ADDRESS": server.address, "OPERATOR_KEY": server.operator_key}
            | {"TOKEN": TOKEN},
            pass_fds=(descriptor,),
        )
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        finally:
            process.terminate()
            process.wait(SECONDS)


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=SECONDS) as answer:  # noqa: S310 - ours
        return str(answer.read().decode())


@one_server
def test_verifier_of_a_preloaded_application_works_in_the_worker(
    server: ServerProcess, tmp_path: Path
) -> None:
    """The arbiter opened and used it before it forked the worker."""
    with _gunicorn(server, tmp_path, "--preload") as url:
        assert "unknown True True" == _get(url)


@one_server
def test_preloaded_application_under_gevent_names_the_remedy(
    server: ServerProcess, tmp_path: Path
) -> None:
    """Threads were patched after the client was made; open routes still answer."""
    with _gunicorn(server, tmp_path, "--preload", "--worker-class", "gevent") as url:
        assert "init_gevent()" in _get(url)


@one_server
def test_preloaded_verifier_works_under_gevent_once_grpc_is_prepared(
    server: ServerProcess, tmp_path: Path
) -> None:
    """Its locks, made before threads were patched, would stop the worker."""
    (tmp_path / "gunicorn.conf.py").write_text(GEVENT, encoding="utf-8")
    flags = ("--preload", "--worker-class", "gevent")
    with _gunicorn(server, tmp_path, *flags) as url, ThreadPoolExecutor(8) as pool:
        assert ["unknown True True"] * 8 == list(pool.map(_get, [url] * 8))
