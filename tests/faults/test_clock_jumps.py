"""Jumps of the wall clock, during service and between starts, change no key's end.

On SQLite a forward jump of up to an hour is believed, as a time server's, and a restart confirms
any. On PostgreSQL the time is the database's, independent of the server's clock.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

import grpc
import pytest

from keyauthority.v1.key_pb2 import RateLimit
from tests.faults.clocks import shift
from tests.faults.conftest import Ground
from tests.proofs import PROVE, Proof
from tests.service.callers import Caller, key_request, new_key, new_project, revoke, verdict
from tests.service.forkserver import ForkServer
from tests.service.lifecycle import passed, seconds
from tests.service.processes import ServerProcess, wait_until

pytestmark = pytest.mark.xdist_group("forkserver")  # one for all

HOUR: Final = 3600.0
JUMPS: Final = {"hour": HOUR + 60, "day": 24 * HOUR, "year": 365 * 24 * HOUR}
SOON: Final = 600.0  # seconds: a life that ends long before any of the jumps


class World(NamedTuple):
    """A store, and the clock of all servers on it."""

    start: Callable[[], ServerProcess]
    clock: Path

    def shift(self, by: float) -> None:
        """Let the wall clock jump."""
        shift(self.clock, by)


@pytest.fixture(params=["sqlite", "postgres"])
def engine(request: pytest.FixtureRequest) -> str:
    """Each engine in turn."""
    return str(request.param)


@pytest.fixture
def world(ground: Ground, forks: ForkServer, clock: Path) -> Iterator[World]:
    """A store of its own for each test."""
    shift(clock, 0)
    running: list[ServerProcess] = []

    def start() -> ServerProcess:
        for one in running:
            if one.process.poll() is None:
                one.stop()
        running.append(forks.start(ground.data, *ground.flags))
        return running[-1]

    yield World(start, clock)
    for one in running:
        if one.process.poll() is None:
            one.kill()
    shift(clock, 0)


@contextmanager
def calling(server: ServerProcess) -> Iterator[Caller]:
    """Give the first operator."""
    with grpc.insecure_channel(server.address) as channel:
        yield Caller(channel, server.metadata)


def told(caller: Caller, made: Any) -> str:
    """Return the verdict on a key, or the status if it cannot be decided."""
    try:
        return verdict(caller, made.secret_key)
    except grpc.RpcError as error:
        return str(error.code().name)


def expired(root: Caller, project: str, ttl: float = 0.3) -> Any:
    """Make a key and see it expire."""
    made = new_key(root, project, ttl=seconds(ttl))
    passed(made.key.expire_time)
    assert "EXPIRED" == verdict(root, made.secret_key)
    return made


@pytest.mark.case(31)
@pytest.mark.parametrize("jump", JUMPS if PROVE else ["day"])
def test_clock_jump_during_service_changes_no_state(
    world: World, engine: str, jump: str, proof: Proof
) -> None:
    """Back: service continues. Forward: unavailable until undone or confirmed by a restart.

    With the database's time all goes on in each case, and the difference is logged.
    """
    own = engine == "sqlite"
    with calling(server := world.start()) as root:
        project = new_project(root)
        over, soon = expired(root, project), new_key(root, project, ttl=seconds(SOON))
        world.shift(-JUMPS[jump])
        assert ("EXPIRED", "VALID") == (told(root, over), told(root, soon))
        revisions = [new_key(root, project).revision for _ in range(3)]
        world.shift(JUMPS[jump])
        if own:
            assert {"UNAVAILABLE"} == {told(root, over), told(root, soon)}
            assert "UNAVAILABLE" == root.refused(key_request(project)).code.name
        else:
            assert ("EXPIRED", "VALID") == (told(root, over), told(root, soon))
            wait_until(lambda: "clock_differs" in server.log_text())
        world.shift(0)
        wait_until(lambda: ("EXPIRED", "VALID") == (told(root, over), told(root, soon)))
        revisions.append(revoke(root, access_key=soon.key.access_key).revision)
        assert all(later == earlier + 1 for earlier, later in pairwise(revisions))
        kept = new_key(root, project, ttl=seconds(SOON))
    server.stop()
    world.shift(JUMPS[jump])
    with calling(restarted := world.start()) as root:
        expected = "EXPIRED" if own else "VALID"
        assert (expected, "REVOKED") == (told(root, kept), told(root, soon))
        loud = "clock_ahead_of_store" if own and jump != "hour" else "" if own else "clock_differs"
        wait_until(lambda: loud in restarted.log_text())
    proof.done(f"{jump}, both ways, running; forward, confirmed by a restart")


@pytest.mark.case(31)
@pytest.mark.parametrize("jump", JUMPS if PROVE else ["day"])
def test_clock_set_back_between_starts_revives_no_key(
    world: World, jump: str, proof: Proof
) -> None:
    """A key that one Verify called EXPIRED stays so on a server started in the past."""
    with calling(server := world.start()) as root:
        project = new_project(root)
        made = expired(root, project, ttl=2)
    server.stop()
    world.shift(-JUMPS[jump])
    with calling(behind := world.start()) as root:
        assert "EXPIRED" == verdict(root, made.secret_key)
        wait_until(lambda: "clock_differs" in behind.log_text())
        later = new_key(root, project)
        assert later.revision > made.revision
        assert later.key.create_time.ToDatetime() >= made.key.expire_time.ToDatetime()
    proof.done(f"{jump} back between two starts")


def test_server_with_a_wrong_clock_blocks_no_limit_of_others(
    ground: Ground, forks: ForkServer, clock: Path
) -> None:
    """A second server 50 minutes ahead uses the same time as the first."""
    if "--store" not in ground.flags:
        pytest.skip("on SQLite all processes have one clock")
    shift(clock, 0)
    first = forks.start(ground.data, *ground.flags)
    beside = ground.data.with_name("beside")
    beside.mkdir(mode=0o700)
    for name in ("pepper", "audit.key", "operator.key"):
        shutil.copy2(ground.data / name, beside / name)
    shift(clock, 50 * 60)
    second = forks.start(beside, *ground.flags)
    try:
        with calling(first) as root, calling(second) as ahead:
            project = new_project(root)
            limited = new_key(root, project, rate_limit=RateLimit(limit=3, period=seconds(86_400)))
            short = new_key(ahead, project, ttl=seconds(SOON))
            life = short.key.expire_time.ToDatetime(UTC) - datetime.now(UTC)
            assert life.total_seconds() < SOON + 5
            seen = [verdict(one, limited.secret_key) for one in (ahead, root, ahead, root)]
            assert ["VALID"] * 3 + ["RATE_LIMITED"] == seen
            assert "VALID" == told(root, short)
    finally:
        shift(clock, 0)
        for one in (first, second):
            one.kill()
