"""Servers that tests share: one process tree for each way of serving."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Protocol, cast
from zlib import crc32

import grpc
import pytest
from hypothesis import HealthCheck, settings

from tests.postgres import Cluster, running_cluster
from tests.proofs import note_case, proof, pytest_terminal_summary
from tests.service import processes
from tests.service.callers import Caller, new_project
from tests.service.forkserver import shared
from tests.service.http_channel import HttpChannel
from tests.service.processes import ServerProcess

__all__ = ["proof", "pytest_terminal_summary"]

settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")  # a machine that does something else beside

TRANSPORTS = ("native", "grpcio")
NATIVE_AT_LEAST = ("native", pytest.param("grpcio", marks=pytest.mark.prove))
"""For a costly test of what both do alike: `make prove` runs it on the second."""
WORKERS = (1, 2)
SERVERS = ("sqlite-native-1", "sqlite-grpcio-2", "postgres-native-2", "postgres-grpcio-1")
"""Engine, transport and workers: each two meet, in half as many servers as there could be."""
_HALVES = (SERVERS[::3], SERVERS[1:3])
"""Each has both engines, both transports and both numbers of workers."""

HTTP_SERVER = "sqlite-http-1"
"""A server whose callers speak JSON over HTTP."""
each_transport = pytest.mark.parametrize(
    "server", ["sqlite-native-1", "postgres-grpcio-1", HTTP_SERVER], indirect=True
)
"""For a test to which the number of workers makes no difference."""
each_grpc_transport = pytest.mark.parametrize(
    "server", ["sqlite-native-1", "postgres-grpcio-1"], indirect=True
)
"""The same, for a test that does not call through the fixture `channel`."""
grpc_and_http = pytest.mark.parametrize("server", ["sqlite-native-1", HTTP_SERVER], indirect=True)
"""For a test of the wire to which neither gRPC transport nor engine makes a difference."""
one_server = pytest.mark.parametrize("server", ["sqlite-native-1"], indirect=True)
"""For a test to which neither the transport nor the engine makes a difference."""
sqlite_servers = pytest.mark.parametrize("server", SERVERS[:2], indirect=True)
"""For a promise that PostgreSQL gives only within --max-staleness: see its counterpart."""
postgres_servers = pytest.mark.parametrize("server", SERVERS[2:], indirect=True)
"""For that counterpart."""


@pytest.hookimpl(tryfirst=True)  # before xdist, which reads the marks in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run all tests that share an expensive fixture in one process of pytest."""
    for item in items:
        note_case(item)
        params = item.callspec.params if hasattr(item, "callspec") else {}
        name = params.get("server") or params.get("engine")
        if name in SERVERS and not _in_short_form(item, name):
            item.add_marker(pytest.mark.prove)
        if name is None and "cluster" in getattr(item, "fixturenames", ()):
            name = "postgres"
        if name is None and "key_authority" in getattr(item, "fixturenames", ()):
            name = item.path.parent.name
        if name not in (None, "sqlite"):
            item.add_marker(pytest.mark.xdist_group(name))


def _in_short_form(item: pytest.Item, name: str) -> bool:
    """Return whether `make test` runs a test on this server; else `make prove` does.

    A test that names its servers runs on all of them, any other on one half, chosen by its name.
    """
    if any("server" in marker.args[0] for marker in item.iter_markers("parametrize")):
        return True
    return name in _HALVES[crc32(item.nodeid.replace(name, "").encode()) % 2]


class Start(Protocol):
    """Starts a server of the test's own."""

    def __call__(self, *flags: str, listen: str = "127.0.0.1:0") -> ServerProcess:
        """Start it with these flags; it ends with the test."""
        ...


@pytest.fixture(scope="session", params=SERVERS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """A server that all tests share and leave as it is; one for each of `SERVERS`."""
    engine, transport, workers = request.param.split("-")
    flags = ["--transport", transport, "--workers", workers]
    if transport == "http":
        flags[1:2] = ["native", "--http", "127.0.0.1:0"]
    if engine == "postgres":
        flags += ["--store", request.getfixturevalue("cluster").create()]
        flags += ["--max-staleness", "30s"]  # a busy machine may not prove itself each second
    running = shared().start(tmp_path_factory.mktemp("server") / "data", *flags)
    yield running
    running.stop()


@pytest.fixture
def channel(server: ServerProcess) -> Iterator[grpc.Channel]:
    """A connection to the shared server; over HTTP, if that is how it is called."""
    if server.http_line:
        with closing(HttpChannel(server.http)) as connected:
            yield cast("grpc.Channel", connected)
        return
    with grpc.insecure_channel(server.address) as opened:
        yield opened


@pytest.fixture
def root(server: ServerProcess, channel: grpc.Channel) -> Caller:
    """The first operator, which has every right."""
    return Caller(channel, server.metadata)


@pytest.fixture
def nobody(channel: grpc.Channel) -> Caller:
    """A caller without a credential."""
    return Caller(channel)


@pytest.fixture
def project(root: Caller) -> str:
    """The id of a project of the test's own."""
    return new_project(root)


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    """Each transport in turn."""
    return str(request.param)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder that is not there yet."""
    return tmp_path / "data"


@pytest.fixture
def start_server(data: Path) -> Iterator[Start]:
    """Start servers of the test's own on its data folder; kill those that still run at its end."""
    with _starting(data, shared().start) as start_one:
        yield start_one


@pytest.fixture
def exec_server(data: Path) -> Iterator[Start]:
    """The same, for a test that looks at their command lines and environments."""
    with _starting(data, processes.start) as start_one:
        yield start_one


@contextmanager
def _starting(data: Path, start: Callable[..., ServerProcess]) -> Iterator[Start]:
    running: list[ServerProcess] = []

    def start_one(*flags: str, listen: str = "127.0.0.1:0") -> ServerProcess:
        running.append(start(data, *flags, listen=listen))
        return running[-1]

    yield start_one
    for one in running:
        if one.process.poll() is None:
            one.kill()
        else:
            one.wait()


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The PostgreSQL that all tests of a process share; each test takes a database of its own."""
    with running_cluster() as one:
        yield one
