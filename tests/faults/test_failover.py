"""PostgreSQL fails over, restarts, resets and is full under load: nothing acknowledged is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

import grpc
import pytest

from tests.faults.failover import (
    World,
    calling,
    fill_up,
    report,
    reset,
    restart,
    start_server,
    world,
)
from tests.faults.journal import judge
from tests.proofs import Proof, scaled
from tests.service.callers import verify
from tests.service.processes import wait_until

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
def test_failovers_and_lost_connections_lose_nothing_acknowledged(
    databases: World, proof: Proof
) -> None:
    """Sessions ended, restart, no connection left, primary lost: the oracle holds, all recovers."""
    pair = databases.pair
    for fault in (reset, restart, fill_up):
        databases.under_load(partial(fault, pair))
    for _ in range(FAILOVERS):
        databases.under_load(pair.fail_over)
        databases.judge()
        pair.mend()
    assert max(databases.recoveries) < RECOVERY_SECONDS
    proof.done("; ".join(report(databases).splitlines()))


def status(call: Callable[[], object]) -> grpc.StatusCode:
    """How a call ended."""
    try:
        call()
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@pytest.mark.case(30)
def test_standby_that_lacks_changes_is_not_served_and_the_oracle_sees_it(
    databases: World, tmp_path: Path
) -> None:
    """The control: with an asynchronous standby a failover loses changes; no server hides that."""
    pair, journal = databases.pair, databases.journal
    with calling(databases.servers[0]) as caller:
        journal.create(caller)
        pair.lose()
        lost = journal.create(caller)
        pair.fail_over_to_the_past()
        wait_until(lambda: UNAVAILABLE == status(lambda: verify(caller, lost.secret_key)))
        assert UNAVAILABLE == status(lambda: journal.create(caller))
    journal.lines.pop()  # the last, which nobody answered
    forgetful = start_server(pair, tmp_path / "data", databases.servers[0])
    try:
        with (
            calling(forgetful) as caller,
            pytest.raises(AssertionError, match=f"{lost.access_key}: VERDICT_UNKNOWN"),
        ):
            judge(journal, caller, databases.store)
    finally:
        forgetful.stop()
