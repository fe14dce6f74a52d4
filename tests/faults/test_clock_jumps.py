"""The wall clock jumps, under servers that run and between two starts: no key's end moves with it.

A forward jump of up to an hour is believed, as a time server's; whoever starts a server anew
confirms any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

import grpc
import pytest

from tests.faults.clocks import shift
from tests.faults.conftest import Ground
from tests.proofs import PROVE, Proof
from tests.service.callers import Caller, key_request, new_key, new_project, revoke, verdict
from tests.service.lives import passed, seconds
from tests.service.nursery import Nursery
from tests.service.processes import ServerProcess, wait_until

pytestmark = pytest.mark.xdist_group("nursery")  # one for all

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
def world(ground: Ground, nurse: Nursery, clock: Path) -> Iterator[World]:
    """A store of its own for each test."""
    shift(clock, 0)
    running: list[ServerProcess] = []

    def start() -> ServerProcess:
        for one in running:
            if one.process.poll() is None:
                one.stop()
        running.append(nurse.start(ground.data, *ground.flags))
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
    """Return the verdict on a key, or the status if nobody can tell."""
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
def test_jump_under_a_server_that_runs_ends_no_key_and_brings_none_back(
    world: World, jump: str, proof: Proof
) -> None:
    """Back: all goes on. Forward: nobody can tell until it is undone or confirmed by a restart."""
    with calling(server := world.start()) as root:
        project = new_project(root)
        over, soon = expired(root, project), new_key(root, project, ttl=seconds(SOON))
        world.shift(-JUMPS[jump])
        assert ("EXPIRED", "VALID") == (told(root, over), told(root, soon))
        revisions = [new_key(root, project).revision for _ in range(3)]
        world.shift(JUMPS[jump])
        assert {"UNAVAILABLE"} == {told(root, over), told(root, soon)}
        assert "UNAVAILABLE" == root.refused(key_request(project)).code.name
        world.shift(0)
        wait_until(lambda: ("EXPIRED", "VALID") == (told(root, over), told(root, soon)))
        revisions.append(revoke(root, access_key=soon.key.access_key).revision)
        assert all(later == earlier + 1 for earlier, later in pairwise(revisions))
        kept = new_key(root, project, ttl=seconds(SOON))
    server.stop()
    world.shift(JUMPS[jump])
    with calling(world.start()) as root:
        assert ("EXPIRED", "REVOKED") == (told(root, kept), told(root, soon))
    proof.done(f"{jump}, both ways, running; forward, confirmed by a restart")


@pytest.mark.case(31)
@pytest.mark.parametrize("jump", JUMPS if PROVE else ["day"])
def test_clock_set_back_between_two_starts_brings_no_key_back(
    world: World, jump: str, proof: Proof
) -> None:
    """A key that a Verify has said is EXPIRED is so for a server that starts in the past."""
    with calling(server := world.start()) as root:
        project = new_project(root)
        made = expired(root, project, ttl=2)
    server.stop()
    world.shift(-JUMPS[jump])
    with calling(world.start()) as root:
        assert "EXPIRED" == verdict(root, made.secret_key)
        later = new_key(root, project)
        assert later.revision > made.revision
        assert later.key.create_time.ToDatetime() >= made.key.expire_time.ToDatetime()
    proof.done(f"{jump} back between two starts")
