"""Web servers as processes: each serves all applications of the matrix on a free port."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from keyauthority.testing import Authority
from tests.ports import free_port, listens
from tests.service.processes import end, environment, wait_until

ROOT: Final = Path(__file__).parents[2]
PREFIX: Final = "/api"
START_SECONDS: Final = 60  # on a machine that is busy; alone it takes 2
OLD_HYPERCORN: Final = ROOT / ".venv/hypercorn-0.17"
ASGI_APP: Final = "tests.middleware.served_asgi:app"
WSGI_APP: Final = "tests.middleware.served_wsgi:app"
GEVENT_APP: Final = "tests.middleware.served_wsgi:gevent_app()"


@dataclass(frozen=True, slots=True)
class WebServer:
    """The command of a server, and the URL of its root path for clients."""

    module: str
    flags: tuple[str, ...]
    """`{port}` stands for its port; the application is the last."""
    prefix_flags: tuple[str, ...] = ()
    """Those of a root path; empty if it has no such setting."""
    sends_prefix: bool = False
    """True if its clients have to send the root path."""
    folder: Path | None = None
    """Its environment, if not the project's."""
    is_asgi: bool = True
    http2: bool = False
    has_lifespan: bool = True


def _gunicorn(*flags: str, is_asgi: bool) -> WebServer:
    """Gunicorn takes the root path from a variable, for WSGI only."""
    prefix = () if is_asgi else ("--env", f"SCRIPT_NAME={PREFIX}")
    bind = ("--bind", "127.0.0.1:{port}", "--workers", "1", "--graceful-timeout", "1", *flags)
    return WebServer("gunicorn", bind, prefix, sends_prefix=not is_asgi, is_asgi=is_asgi)


_HYPERCORN: Final = ("--bind", "127.0.0.1:{port}", ASGI_APP)
_ROOT_PATH: Final = ("--root-path", PREFIX)
SERVERS: Final[Mapping[str, WebServer]] = {
    "uvicorn": WebServer("uvicorn", ("--port", "{port}", ASGI_APP), _ROOT_PATH),
    "hypercorn": WebServer("hypercorn", _HYPERCORN, _ROOT_PATH, sends_prefix=True, http2=True),
    "hypercorn-0.17": WebServer(
        "hypercorn", _HYPERCORN, _ROOT_PATH, True, OLD_HYPERCORN, http2=True
    ),
    "granian": WebServer(
        "granian",
        ("--interface", "asgi", "--port", "{port}", "--workers", "1", ASGI_APP),
        ("--url-path-prefix", PREFIX),
        sends_prefix=True,
        http2=True,
    ),
    "daphne": WebServer(
        "daphne",
        ("--port", "{port}", ASGI_APP),
        _ROOT_PATH,
        sends_prefix=True,
        has_lifespan=False,
    ),
    "gunicorn-uvicorn": _gunicorn("-k", "uvicorn.workers.UvicornWorker", ASGI_APP, is_asgi=True),
    "gunicorn-threads": _gunicorn("--threads", "4", WSGI_APP, is_asgi=False),
    "gunicorn-gevent": _gunicorn("-k", "gevent", GEVENT_APP, is_asgi=False),
    "waitress": WebServer(
        "waitress",
        ("--listen", "127.0.0.1:{port}", WSGI_APP),
        ("--url-prefix", PREFIX),
        sends_prefix=True,
        is_asgi=False,
    ),
}


@contextmanager
def serving(
    name: str, authority: Authority, *, with_prefix: bool = False, app: str = ""
) -> Iterator[str]:
    """Give the URL of a server for as long as the context lasts; it serves the matrix or `app`."""
    server = SERVERS[name]
    if server.folder is not None and not server.folder.exists():
        pytest.skip(f"{name} is not installed: `make .venv/.dev` has found no package")
    if server.folder is None and importlib.util.find_spec(server.module) is None:
        pytest.skip(f"{name} is not installed")
    if with_prefix and not server.prefix_flags:
        pytest.skip(f"{name} has no setting for a root path")
    port = free_port()
    flags = [*(server.prefix_flags if with_prefix else ()), *server.flags[:-1]]
    flags.append(app or server.flags[-1])
    paths = [str(ROOT)] if server.folder is None else [str(server.folder), str(ROOT)]
    command = [server.module, *(flag.format(port=port) for flag in flags)]
    with running(command, port, authority, ROOT, {"PYTHONPATH": os.pathsep.join(paths)}):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def running(
    command: Sequence[str],
    port: int,
    authority: Authority,
    folder: Path,
    settings: Mapping[str, str] | None = None,
) -> Iterator[None]:
    """Run a Python module in a folder until it listens on the port, and for the context."""
    surroundings = {
        "KEYAUTHORITY_ADDRESS": authority.address,
        "KEYAUTHORITY_OPERATOR_KEY": authority.operator_key,
    }
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=folder,
            env=environment(surroundings | dict(settings or {})),
            stdout=log,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            wait_until(lambda: listens(port) or process.poll() is not None, START_SECONDS)
            log.seek(0)
            assert process.returncode is None, log.read().decode()
            yield
        finally:
            end(process, 10)
