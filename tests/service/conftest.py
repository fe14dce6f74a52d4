"""Servers that the service tests share: one process tree for each way of serving."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import grpc
import pytest

from tests.service.callers import Caller, new_project
from tests.service.processes import ServerProcess, start

TRANSPORTS = ("native", "grpcio")
WORKERS = (1, 2)


class Start(Protocol):
    """Starts a server of the test's own."""

    def __call__(self, *flags: str, listen: str = "127.0.0.1:0") -> ServerProcess:
        """Start it with these flags; it ends with the test."""
        ...


@pytest.fixture(scope="session", params=[f"{t}-{w}" for t in TRANSPORTS for w in WORKERS])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """A server that all tests share and leave as it is; one for each transport and worker count."""
    transport, _, workers = request.param.partition("-")
    running = start(
        tmp_path_factory.mktemp("server") / "data",
        *("--transport", transport),
        *("--workers", workers),
    )
    yield running
    running.stop()


@pytest.fixture
def channel(server: ServerProcess) -> Iterator[grpc.Channel]:
    """A connection to the shared server."""
    with grpc.insecure_channel(server.address) as opened:
        yield opened


@pytest.fixture
def root(server: ServerProcess, channel: grpc.Channel) -> Caller:
    """The first operator, whom nothing is refused."""
    return Caller(channel, server.metadata)


@pytest.fixture
def nobody(channel: grpc.Channel) -> Caller:
    """One who calls without a credential."""
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
    """Start servers of the test's own on its data folder; what still runs at its end is killed."""
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
