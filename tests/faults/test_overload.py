"""Overload: the server keeps its throughput and rejects the excess fast."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from typing import Final

import pytest
from google.rpc.status_pb2 import Status

from keyauthority.convert import error_from_status
from keyauthority.errors import ErrorReason, KeyAuthorityError
from keyauthority_server.overload.concurrency import ConcurrencyLimit
from keyauthority_server.rpc_types import Call, RpcError
from tests.faults.load import Line
from tests.faults.slow_server import VERIFY_SECONDS
from tests.proofs import Proof, scaled

pytestmark = pytest.mark.prove

SECONDS: Final = scaled(short=2, each=2)
CAPACITY: Final = 1 / VERIFY_SECONDS  # calls a second
REVOCATIONS: Final = 20 * SECONDS
GOODPUT_MIN: Final = 0.8  # of the peak
REVOKED_WITHIN: Final = 1.0  # seconds


@pytest.fixture
def slow_server() -> Iterator[str]:
    """The address of a server on the native front that cannot serve much."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.faults.slow_server", "native"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin
        assert process.stdout
        yield process.stdout.readline().strip()
        process.stdin.close()
        process.wait(20)


@pytest.mark.case(32)
async def test_overloaded_server_keeps_goodput_and_revokes_fast(
    slow_server: str, proof: Proof
) -> None:
    """At four times capacity goodput holds, excess is OVERLOADED, RevokeKey is fast."""
    asking = Line(slow_server, "Verify", ())
    revoking = Line(slow_server, "RevokeKey", (), connections=1)
    try:
        before = await asking.offer([b""] * 120, rate=CAPACITY * 2)
        assert not before.refused
        over, revoked = await asyncio.gather(
            asking.offer([b""] * int(CAPACITY * SECONDS * 4), rate=CAPACITY * 4),
            revoking.offer([b""] * REVOCATIONS, rate=REVOCATIONS / SECONDS),
        )
    finally:
        await asyncio.gather(asking.close(), revoking.close())
    assert {"RESOURCE_EXHAUSTED"} == set(over.refused)
    told = [error_from_status(Status.FromString(one)) for one in over.statuses]
    assert [ErrorReason.OVERLOADED] == [one.reason for one in told]
    assert all(one.retry_after for one in told)
    assert before.goodput * GOODPUT_MIN < over.goodput
    assert REVOCATIONS == revoked.answered
    assert REVOKED_WITHIN > revoked.waits[REVOCATIONS * 9 // 10]  # the rest may meet other tests
    proof.done(
        f"{SECONDS} s at 4 times of {CAPACITY:.0f} calls/s: goodput {over.goodput:.0f}/s of "
        f"{before.goodput:.0f}/s before, {sum(over.refused.values())} refused; {REVOCATIONS} "
        f"RevokeKey, p90 {revoked.waits[REVOCATIONS * 9 // 10] * 1000:.0f} ms, worst "
        f"{revoked.waits[-1] * 1000:.0f} ms"
    )


@pytest.mark.case(32)
async def test_full_concurrency_limit_rejects_unparsed_and_drains() -> None:
    """Calls beyond the limit are OVERLOADED; an ended call frees a slot."""
    limit, go_on, served = ConcurrencyLimit(2), asyncio.Event(), 0

    async def answer(body: bytes, _: Call) -> bytes:
        nonlocal served
        served += 1
        await go_on.wait()
        return body

    method, call = limit.around(answer, None), Call((), "unix:")
    inside = [asyncio.create_task(method(b"inside", call)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(RpcError) as refused:
        await method(b"late", call)
    told: KeyAuthorityError = error_from_status(Status.FromString(refused.value.status))
    assert ErrorReason.OVERLOADED is told.reason
    inside.pop().cancel()
    await asyncio.sleep(0)
    inside.append(asyncio.create_task(method(b"inside", call)))
    go_on.set()
    assert [b"inside", b"inside"] == await asyncio.gather(*inside)
    assert 3 == served
