"""Three servers on one PostgreSQL: direct, and behind PgBouncer in session and transaction mode.

Their role has hostile settings. The database is stopped and started, the poolers restarted, the
standby promoted: the oracle holds, health follows, and no server ends.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from keyauthority_server.store.postgres import migrate
from tests.faults.failover import Pair, World, running_pair, world
from tests.faults.test_failover import RECOVERY_SECONDS, lead
from tests.pgbouncer import Pooler, needs_pgbouncer, pooler
from tests.proofs import Proof, scaled
from tests.service.processes import ServerProcess, wait_until
from tests.store.test_postgres_sessions import ROLE, WORKS

pytestmark = [pytest.mark.prove, needs_pgbouncer]

ROUNDS: Final = scaled(short=1, each=2)
DATABASE: Final = "authority"
MODES: Final = ("session", "transaction")
HEALTH_SECONDS: Final = 10.0  # five times the bound: load and all databases share a processor
SERVING: Final = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING


class Three(NamedTuple):
    """The servers with their databases, and the poolers before those."""

    world: World
    poolers: Sequence[Pooler]
    primary: Path
    """Leads to the socket of the primary."""


@pytest.fixture(scope="module")
def three() -> Iterator[Three]:
    """Three servers, whose sessions have every hostile setting that makes no difference."""
    with ExitStack() as ending:
        pair: Pair = ending.enter_context(running_pair())
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
        yield Three(ending.enter_context(world(pair, *urls)), poolers, primary)


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


def promote(three: Three) -> None:
    """Kill the primary and promote its standby; the poolers are led to it."""
    three.world.pair.fail_over()
    lead(three.primary, three.world.pair.primary)


@pytest.mark.parametrize("fault", [stop_and_start, restart_poolers, promote])
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
