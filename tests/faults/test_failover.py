"""PostgreSQL failover, restart, reset and full disk under load: no acknowledged change is lost."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

import grpc
import pytest

from keyauthority.token import new_access_key
from keyauthority_server.change_feed import following
from keyauthority_server.keyring import Keyring
from keyauthority_server.records import ProvenFreshness, RecordCache, heartbeat_seconds
from keyauthority_server.store.interface import StoreUnavailable
from keyauthority_server.store.postgres import open_store
from tests.faults.failover import (
    DATABASE,
    STALENESS,
    World,
    calling,
    fill_up,
    report,
    reset,
    restart,
    start_server,
    world,
)
from tests.faults.oracle import judge
from tests.postgres import Cluster
from tests.proofs import Proof, scaled
from tests.service.callers import verify
from tests.service.processes import wait_until
from tests.store.factories import sign

pytestmark = pytest.mark.prove

FAILOVERS: Final = scaled(short=1, each=2)
RECOVERY_SECONDS: Final = 45.0  # nine times the bound: the promotion waits for the processor, too
UNAVAILABLE: Final = grpc.StatusCode.UNAVAILABLE


@pytest.fixture(scope="module")
def databases() -> Iterator[World]:
    """A primary, its standby, and two servers on them."""
    with world() as one:
        yield one


@pytest.mark.case(30)
def test_failovers_and_lost_connections_lose_no_acknowledged_change(
    databases: World, proof: Proof
) -> None:
    """Sessions ended, restart, no free connection, primary lost: the oracle holds."""
    pair = databases.pair
    for fault in (reset, restart, fill_up):
        databases.under_load(partial(fault, pair))
    for _ in range(FAILOVERS):
        databases.under_load(pair.fail_over)
        databases.judge()
        pair.mend()
    assert max(databases.recoveries) < RECOVERY_SECONDS
    proof.done("; ".join(report(databases).splitlines()))


async def test_isolated_old_primary_is_abandoned_for_the_new_one(databases: World) -> None:
    """It still answers but is not trusted: reads go where heartbeats commit."""
    pair = databases.pair
    with tempfile.TemporaryDirectory(prefix="keyauthority-") as folder:
        name = Path(folder, "primary")  # it moves with the primary, as that of a managed service
        lead(name, pair.primary)
        store = open_store(pair.primary.url(DATABASE, host=str(name)), sign)
        async with following(store) as feed:
            await store.start_heartbeats(heartbeat_seconds(STALENESS))
            cache = RecordCache(
                store,
                ProvenFreshness(store, feed, STALENESS),
                Keyring(Path("pepper"), {1: bytes(32)}),
            )
            cache.position = await feed.subscribe(cache)
            assert await _tells(cache)
            await asyncio.to_thread(pair.standby.promote)
            lead(name, pair.standby)
            await _until(cache, tells=False)
            assert [(False,)] == pair.primary.execute("SELECT pg_is_in_recovery()")
            await asyncio.wait_for(_until(cache, tells=True), RECOVERY_SECONDS)
        await store.close()
    pair.primary.kill()
    pair.primary, pair.standby = pair.standby, pair.primary
    pair.mend()


def lead(name: Path, cluster: Cluster) -> None:
    """Let new connections to a name go to a cluster; those that are open stay where they are."""
    name.unlink(missing_ok=True)
    name.symlink_to(cluster.folder)


async def _until(cache: RecordCache, *, tells: bool) -> None:
    while True:
        if await _tells(cache) is tells:
            return
        await asyncio.sleep(0.05)  # the feed goes on meanwhile


async def _tells(cache: RecordCache) -> bool:
    """True if the store and the cache are known to be fresh."""
    try:
        await cache.read((new_access_key(),), None)
    except StoreUnavailable:
        return False
    return cache.staleness < STALENESS


def status(call: Callable[[], object]) -> grpc.StatusCode:
    """The status of a call."""
    try:
        call()
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@pytest.mark.case(30)
def test_standby_without_changes_is_not_served(databases: World, tmp_path: Path) -> None:
    """Control: an asynchronous standby loses changes; no server hides it from the oracle."""
    pair, journal = databases.pair, databases.journal
    with calling(databases.servers[0]) as caller:
        journal.create(caller)
        pair.lose()
        lost = journal.create(caller)
        pair.fail_over_to_the_past()
        wait_until(lambda: UNAVAILABLE == status(lambda: verify(caller, lost.secret_key)))
        assert UNAVAILABLE == status(lambda: journal.create(caller))
    journal.lines.pop()  # the last, which was not answered
    forgetful = start_server(pair.url, tmp_path / "data", databases.servers[0])
    try:
        with (
            calling(forgetful) as caller,
            pytest.raises(AssertionError, match=f"{lost.access_key}: VERDICT_UNKNOWN"),
        ):
            judge(journal, caller, databases.store)
    finally:
        forgetful.stop()
