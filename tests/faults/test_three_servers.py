"""Three servers on one PostgreSQL: direct, and behind PgBouncer in session and transaction mode.

Their role has hostile settings. The database is stopped and started, its disk filled, the poolers
restarted, the servers' clocks set, the standby promoted: the oracle holds, health follows, and no
server ends.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from keyauthority.v1.key_pb2 import RateLimit
from keyauthority_server.store.postgres import migrate
from tests.faults.bitflips import environment
from tests.faults.clocks import shift
from tests.faults.failover import Pair, World, calling, running_pair, world
from tests.faults.oracle import Journal
from tests.faults.small_disk import fill
from tests.faults.test_failover import RECOVERY_SECONDS, lead
from tests.pgbouncer import Pooler, needs_pgbouncer, pooler
from tests.proofs import Proof, scaled
from tests.service.callers import Caller, refusal, verdict
from tests.service.lifecycle import seconds
from tests.service.processes import ServerProcess, wait_until
from tests.store.test_postgres_sessions import ROLE, WORKS

pytestmark = [pytest.mark.prove, needs_pgbouncer]

ROUNDS: Final = scaled(short=1, each=2)
DATABASE: Final = "authority"
MODES: Final = ("session", "transaction")
IS_ROOT: Final = os.geteuid() == 0
DISK_BYTES: Final = 256 << 20  # a new cluster takes some 60 MiB
HOUR: Final = 3_600.0
STEPS: Final = (
    (HOUR, -HOUR, 24 * HOUR),
    (-24 * HOUR, 365 * 24 * HOUR, -365 * 24 * HOUR),
    (50 * 60.0, 50 * 60.0, -50 * 60.0),
)
"""By how much the clock of each server is off, one after another."""
HEALTH_SECONDS: Final = 10.0  # five times the bound: load and all databases share a processor
SERVING: Final = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING


class Three(NamedTuple):
    """The servers with their databases, and the poolers before those."""

    world: World
    poolers: Sequence[Pooler]
    primary: Path
    """Leads to the socket of the primary."""
    clocks: Sequence[Path]
    """By how much the wall clock of each server is off."""


@pytest.fixture(scope="module")
def three() -> Iterator[Three]:
    """Three servers, whose sessions have every hostile setting that makes no difference."""
    with ExitStack() as ending:
        pair: Pair = ending.enter_context(running_pair(DISK_BYTES if IS_ROOT else 0))
        folder = ending.enter_context(tempfile.TemporaryDirectory(prefix="keyauthority-"))
        Path(folder).chmod(0o755)  # the poolers run as another user
        primary = Path(folder, "primary")
        lead(primary, pair.primary)
        migrate(pair.primary.url(DATABASE))
        pair.primary.execute(f"CREATE ROLE {ROLE} LOGIN SUPERUSER")
        for name, value in WORKS.items():
            pair.primary.execute(f"ALTER ROLE {ROLE} SET {name} = {value}")
        poolers = [
            ending.enter_context(pooler(pair.primary, mode, ROLE, host=primary)) for mode in MODES
        ]
        urls = [pair.url.replace("postgres@", f"{ROLE}@")]
        urls += [one.url(DATABASE, ROLE) for one in poolers]
        clocks = [Path(folder, f"clock-{number}") for number in range(len(urls))]
        for clock in clocks:
            shift(clock, 0)
        settings = [environment(clock=clock) for clock in clocks]
        servers = ending.enter_context(world(pair, *urls, settings=settings))
        yield Three(servers, poolers, primary, clocks)


@contextmanager
def watched(servers: Sequence[ServerProcess]) -> Iterator[Callable[[int], None]]:
    """Give how to wait until all servers have a health status."""
    with ExitStack() as open_channels:
        stubs: list[Any] = [
            health_pb2_grpc.HealthStub(
                open_channels.enter_context(grpc.insecure_channel(one.address))
            )
            for one in servers
        ]

        def await_status(status: int) -> None:
            for stub in stubs:
                check = partial(stub.Check, health_pb2.HealthCheckRequest(), timeout=5)
                wait_until(lambda check=check: check().status == status, HEALTH_SECONDS)  # type: ignore[misc]

        yield await_status


def stop_and_start(three: Three) -> None:
    """Stop the database until every server says so, and start it again."""
    with watched(three.world.servers) as await_status:
        three.world.pair.primary.stop()
        await_status(NOT_SERVING)
        three.world.pair.primary.start()
        await_status(SERVING)


def restart_poolers(three: Three) -> None:
    """Restart both poolers: their sessions end in the midst of statements."""
    for one in three.poolers:
        one.stop()
        one.start(ROLE)


def fill_disk(three: Three) -> None:
    """Fill the disk of the primary until every server refuses a change, and free it again.

    Verify goes on at all of them. PostgreSQL may end, when it is its log that it cannot write.
    """
    if not IS_ROOT:
        pytest.skip("only root can have a file system of its own")
    databases = three.world
    with ExitStack() as opened:
        callers = [opened.enter_context(calling(one)) for one in databases.servers]
        kept = databases.journal.create(callers[0]).secret_key
        filler = fill(databases.pair.primary.folder)
        try:
            for caller in callers:
                create = partial(_refusal_of_create, databases.journal, caller)
                wait_until(lambda create=create: create() == "DISK_LOW")  # type: ignore[misc]
                assert "VALID" == verdict(caller, kept)
        finally:
            filler.unlink()
    if not databases.pair.primary.is_running:
        databases.pair.primary.start()


def _refusal_of_create(journal: Journal, caller: Caller) -> str:
    try:
        journal.create(caller)
    except grpc.RpcError as failed:
        return refusal(failed).reason
    return ""


def step_clocks(three: Three) -> None:
    """Set the servers' clocks, each otherwise and all at once: the time is the database's.

    A key that has expired stays so, one that lives long stays valid, and a limit is one for all.
    """
    databases = three.world
    with ExitStack() as opened:
        callers = [opened.enter_context(calling(one)) for one in databases.servers]
        limit = RateLimit(limit=len(STEPS) * len(callers), period=seconds(86_400))
        create = partial(databases.journal.create, callers[0])
        over, living = create(ttl=seconds(0.3)), create(ttl=seconds(3_600))
        limited = create(rate_limit=limit)
        wait_until(lambda: "EXPIRED" == verdict(callers[0], over.secret_key))
        for steps in STEPS:
            for clock, step in zip(three.clocks, steps, strict=True):
                shift(clock, step)
            for caller in callers:
                found = [verdict(caller, one.secret_key) for one in (over, living, limited)]
                assert ["EXPIRED", "VALID", "VALID"] == found
        assert {"RATE_LIMITED"} == {verdict(one, limited.secret_key) for one in callers}
        for one in databases.servers:
            wait_until(lambda one=one: "clock_differs" in one.log_text())  # type: ignore[misc]
        for clock in three.clocks:
            shift(clock, 0)
        for made in (over, living, limited):
            databases.journal.revoke(callers[0], made.access_key)


def promote(three: Three) -> None:
    """Kill the primary and promote its standby; the poolers are led to it."""
    three.world.pair.fail_over()
    lead(three.primary, three.world.pair.primary)


@pytest.mark.parametrize(
    "fault", [stop_and_start, restart_poolers, fill_disk, step_clocks, promote]
)
def test_fault_under_three_servers_loses_no_acknowledged_change(
    three: Three, fault: Callable[[Three], None], proof: Proof
) -> None:
    """No change is lost or stale, every server recovers, and none of its processes ends."""
    databases = three.world
    workers = [one.worker_pids() for one in databases.servers]
    for _ in range(ROUNDS):
        databases.under_load(partial(fault, three))
        databases.judge()
        if fault is promote:
            databases.pair.mend()
    assert workers == [one.worker_pids() for one in databases.servers]
    assert max(databases.recoveries) < RECOVERY_SECONDS
    logs = "".join(one.log_text() for one in databases.servers)
    assert "Traceback" not in logs
    assert "worker_ended" not in logs
    proof.done(
        f"{fault.__name__} {ROUNDS} times: no change lost, {len(databases.stale)} stale answers; "
        f"recovery at most {max(databases.recoveries):.1f} s"
    )
    databases.recoveries.clear()
