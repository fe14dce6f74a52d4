"""One fork server per pytest process, with a disk and a clock that tests alter."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from keyauthority_server import config
from keyauthority_server.config import Config
from keyauthority_server.runtime import bootstrap
from tests.faults.bitflips import environment
from tests.faults.clocks import shift
from tests.faults.oracle import PostgresStore, SqliteStore, Store
from tests.service.forkserver import ForkServer, forkserver


class Ground(NamedTuple):
    """Starts a server for one test, and reads its store."""

    data: Path
    url: str
    """Its PostgreSQL; empty on SQLite."""
    store: Store
    flags: tuple[str, ...]


@pytest.fixture
def ground(engine: str, tmp_path: Path, request: pytest.FixtureRequest) -> Ground:
    """Nothing yet, of the engine that the test names."""
    data = tmp_path / "data"
    if engine == "sqlite":
        return Ground(data, "", SqliteStore(data), ())
    url = request.getfixturevalue("cluster").create()
    # A busy machine may fail to prove freshness each second, which is not tested here.
    return Ground(data, url, PostgresStore(data, url), ("--store", url, "--max-staleness", "30s"))


@pytest.fixture(scope="session")
def order_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the orders to the disk."""
    return tmp_path_factory.mktemp("orders") / "order"


@pytest.fixture(scope="session")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """By how much the wall clock is off; a test that shifts it puts it right again."""
    path = tmp_path_factory.mktemp("clock") / "clock"
    shift(path, 0)
    return path


@pytest.fixture(scope="session")
def forks(order_path: Path, clock: Path) -> Iterator[ForkServer]:
    """The fork server; each test stops the servers that it starts."""
    with forkserver(environment(failing=order_path, clock=clock)) as started:
        yield started


@pytest.fixture
def settings(tmp_path: Path) -> Config:
    """The configuration of a data folder that has had its first start."""
    made = config.load({"data": str(tmp_path / "data")}, {})
    (tmp_path / "data").mkdir(mode=0o700)
    asyncio.run(bootstrap.prepare(made))
    return made
