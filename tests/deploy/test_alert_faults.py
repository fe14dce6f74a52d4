"""Each alert is raised by a real fault of a real server, with the shipped expression.

The time for which an alert must hold is left out. A server that is gone, one that loses its workers
and one without its database are in `test_monitoring.py`.
"""

from __future__ import annotations

import asyncio
import re
import resource
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import grpc
import grpc.aio
import pytest

import keyauthority
from keyauthority.model import CANARY_LABEL
from keyauthority.v1.project_service_pb2 import CreateProjectRequest
from tests.conftest import Start
from tests.deploy.prometheus import Prometheus, alerts, needs_prometheus, prometheus
from tests.faults.bitflips import environment
from tests.faults.clocks import shift
from tests.faults.disk.failing import IOERR_FSYNC, Order, ordered
from tests.faults.small_disk import fill, run_inside, small_server
from tests.postgres import Cluster, holding
from tests.service.certificates import LIFE, LOOPBACK, Issuer
from tests.service.metrics import metrics_address, scrape, value
from tests.service.processes import ServerProcess, command, wait_until

pytestmark = needs_prometheus

SECONDS: Final = 40.0  # for an alert to fire; advisories are counted each 5 s
HOUR: Final = timedelta(hours=1)
SKEW: Final = 60.0  # seconds
DESCRIPTORS_LEFT: Final = 4
CALLS: Final = 2_000  # twice as many changes as may wait
WAIT: Final = 3.0  # seconds: until then each is refused or waits


class World(NamedTuple):
    """A server with TLS on a small disk, watched by Prometheus."""

    server: ServerProcess
    authority: keyauthority.Client
    running: Prometheus
    issuer: Issuer
    folder: Path
    clock: Path


def test_every_alert_is_raised_by_a_real_fault() -> None:
    """The tests of faults name each alert, and no other."""
    here = Path(__file__)
    texts = (here.read_text("utf-8"), here.with_name("test_monitoring.py").read_text("utf-8"))
    assert alerts().keys() == set(re.findall(r'"(KeyAuthority[A-Z]\w+)"', "".join(texts)))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A server that has a key under an old pepper since before its first scrape."""
    issuer, clock = Issuer(), tmp_path / "clock"
    shift(clock, 0)
    cert, key = issuer.issue(*LOOPBACK).write(tmp_path, "server")
    tls = ("--tls-cert", str(cert), "--tls-key", str(key))
    altered = environment(clock=clock, failing=tmp_path / "order", faulty="")
    with (
        small_server(tmp_path, *tls, settings=altered) as server,
        keyauthority.Client(
            server.address,
            operator_key=server.operator_key,
            tls=keyauthority.Tls(ca=issuer.pem),
        ) as authority,
    ):
        project = authority.create_project("Shop")
        authority.create_key(project.project_id, mode="test", kind="secret")
        run_inside(server, *command("pepper", "rotate", "--data"), str(server.data))
        wait_until(lambda: value(scrape(server), "keyauthority_keys_under_old_peppers ") > 0)
        with prometheus(tmp_path / "prometheus", metrics_address(server)) as running:
            yield World(server, authority, running, issuer, tmp_path, clock)


def test_faults_of_disk_time_keys_and_limits_raise_their_alerts(world: World) -> None:
    """Each fault raises its alerts, which then stay; nothing else fires."""
    expected = {
        "KeyAuthorityDiskFilling",  # its disk has 40 MiB
        "KeyAuthorityOldPepper",
        "KeyAuthorityCertificateExpires",  # it is valid for two days
    }

    def fires(*alerts: str) -> None:
        expected.update(alerts)
        wait_until(lambda: expected == world.running.firing(), SECONDS)

    fires()
    use_keys(world.authority)
    fires(
        *("KeyAuthorityCanaryUsed", "KeyAuthorityEndedKeyUsed"),
        *("KeyAuthorityOverlapEndsInUse", "KeyAuthorityKeysExpire"),
    )
    world.issuer.issue(*LOOPBACK, age=LIFE - HOUR).write(world.folder, "server")
    fires("KeyAuthorityCertificateExpiresToday")
    lower_descriptors(world.server)
    fires("KeyAuthorityDescriptorsLow")
    with pytest.raises(keyauthority.Internal):
        list(world.authority.get_usage())
    fires("KeyAuthorityFault", "KeyAuthorityUnavailable")
    filler = fill(world.server.data)
    fires("KeyAuthorityDiskFull")
    filler.unlink()
    expected.remove("KeyAuthorityDiskFull")
    shift(world.clock, -SKEW)
    fires("KeyAuthorityClockDiffers")
    refuse_changes(world)
    fires("KeyAuthorityChangesRefused")


def use_keys(authority: keyauthority.Client) -> None:
    """Present a canary, a revoked key and a rotated one; let another expire soon."""
    project_id = authority.create_project("Shop").project_id
    make = partial(authority.create_key, project_id, mode="test", kind="secret")
    canary, ended, rotated = make(labels={CANARY_LABEL: "wiki"}), make(), make()
    make(ttl=timedelta(days=10))
    authority.revoke_key(ended.key.access_key)
    authority.rotate_key(rotated.key.access_key, overlap=HOUR)
    verdicts = [authority.verify(one.secret_key.reveal()).code for one in (canary, ended, rotated)]
    assert ["valid", "revoked", "valid"] == [str(code) for code in verdicts]


def lower_descriptors(server: ServerProcess) -> None:
    """Leave the worker a limit of open files that it has all but reached."""
    (worker,) = server.worker_pids()
    most = len(list(Path(f"/proc/{worker}/fd").iterdir())) + DESCRIPTORS_LEFT
    resource.prlimit(worker, resource.RLIMIT_NOFILE, (most, most))


def refuse_changes(world: World) -> None:
    """Let the disk fail to sync a change: the worker commits none any more."""
    with (
        ordered(world.folder / "order", Order("sync", IOERR_FSYNC)),
        pytest.raises(keyauthority.Unavailable),
    ):
        world.authority.create_project("Shop")


def test_overload_and_a_database_that_is_gone_raise_their_alerts(
    start_server: Start, cluster: Cluster, tmp_path: Path
) -> None:
    """Changes that wait for a lock of the database fill their limit; then it takes no session."""
    url = cluster.create()
    server = start_server("--store", url, "--metrics", "127.0.0.1:0")
    with prometheus(tmp_path / "prometheus", metrics_address(server)) as running:
        wait_until(lambda: not running.firing())
        with holding(url, "log"):
            asyncio.run(flood(server))
        wait_until(lambda: "KeyAuthorityOverloaded" in running.firing())
        assert "KeyAuthorityStale" not in running.firing()
        take_away(cluster, url.partition("?")[0].rpartition("/")[2])
        wait_until(lambda: "KeyAuthorityStale" in running.firing())


def take_away(cluster: Cluster, database: str) -> None:
    """Let a database take no sessions, and end those that it has."""
    cluster.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS false")
    cluster.execute(
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'"  # noqa: S608
    )


async def flood(server: ServerProcess) -> None:
    """Make more changes at once than may wait."""
    body = CreateProjectRequest(display_name="Shop").SerializeToString()
    path = "/keyauthority.v1.ProjectService/CreateProject"
    async with grpc.aio.insecure_channel(server.address) as channel:
        create: Any = channel.unary_unary(path)
        calls = [create(body, metadata=server.metadata, timeout=WAIT) for _ in range(CALLS)]
        codes = Counter([await call.code() for call in calls])
    assert grpc.StatusCode.OK not in codes
    assert CALLS // 3 < codes[grpc.StatusCode.RESOURCE_EXHAUSTED]
