"""One suite for all engines: a test that takes `engine`, `place` or `store` runs on each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from keyauthority_server.store.counters import Counters
from keyauthority_server.store.interface import Store
from keyauthority_server.store.postgres import PostgresStore, open_store
from tests.postgres import Cluster
from tests.store.engines import ENGINES, POSTGRES, Engine
from tests.store.factories import sign


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """Each engine in turn."""
    if request.param == POSTGRES.name:
        POSTGRES.cluster = request.getfixturevalue("cluster")
    yield ENGINES[request.param]
    if POSTGRES.cluster is not None:
        POSTGRES.cluster.release()


@pytest.fixture
def place(engine: Engine, tmp_path: Path) -> str:
    """An empty database."""
    return engine.make(tmp_path)


@pytest.fixture
async def store(engine: Engine, place: str) -> AsyncIterator[Store]:
    """A store on it."""
    opened = engine.open(place)
    yield opened
    await opened.close()


@pytest.fixture
async def counters(engine: Engine, place: str) -> AsyncIterator[Counters]:
    """Counters that have counted nothing."""
    opened = engine.counters(place)
    yield opened
    await opened.close()


@pytest.fixture
def url(cluster: Cluster) -> Iterator[str]:
    """A database of ours."""
    yield cluster.take()
    cluster.release()


@pytest.fixture
async def open_one(url: str) -> AsyncIterator[PostgresStore]:
    """A store on it."""
    opened = open_store(url, sign)
    yield opened
    await opened.close()
