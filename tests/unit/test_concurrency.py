"""Concurrency limits: admitted calls per class, and how many run at once."""

from __future__ import annotations

import asyncio

import pytest

from keyauthority_server.overload.concurrency import (
    PAGES_MAX,
    PAGES_RUNNING_MAX,
    READS_MAX,
    URGENT_MAX,
    WRITES_MAX,
    CallClass,
    ConcurrencyLimit,
    concurrency_limits,
)
from keyauthority_server.rpc.policy import POLICY
from keyauthority_server.rpc_types import Call, RpcError
from tests.service.callers import METHODS
from tests.unit.waiting import settle

CALL = Call((), "ipv4:127.0.0.1:1")
MAXIMA = {"urgent": URGENT_MAX, "write": WRITES_MAX, "page": PAGES_MAX, "read": READS_MAX}


class Served:
    """A method that waits until it is let go, and knows how many wait with it."""

    def __init__(self) -> None:
        self.now = 0
        self.most = 0
        self.go = asyncio.Event()

    async def __call__(self, body: bytes, call: Call) -> bytes:
        """Answer with the request once it may."""
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await self.go.wait()
        finally:
            self.now -= 1
        return body


@pytest.mark.parametrize("running_max", [1, 2, None])
async def test_admitted_calls_take_turns_and_the_excess_is_refused(running_max: int | None) -> None:
    """A waiting call is admitted, so the limit bounds waiting calls too."""
    served, limit = Served(), ConcurrencyLimit(4, running_max)
    answer = limit.around(served, None)
    inside = [asyncio.create_task(answer(bytes([place]), CALL)) for place in range(4)]
    await settle()
    assert (running_max or 4) == served.now
    with pytest.raises(RpcError):
        await answer(b"5", CALL)
    served.go.set()
    assert [bytes([place]) for place in range(4)] == await asyncio.gather(*inside)
    assert (running_max or 4) == served.most
    assert b"6" == await answer(b"6", CALL)


async def test_cancelled_call_frees_its_slot() -> None:
    """Whether it ran or waited; the calls after it are served."""
    served, limit = Served(), ConcurrencyLimit(4, 1)
    answer = limit.around(served, None)
    first, second, third = (asyncio.create_task(answer(b"%d" % one, CALL)) for one in range(3))
    await settle()
    for gone in (second, first):
        gone.cancel()
        await settle()
    assert (1, 1) == (served.now, limit.admitted)
    served.go.set()
    assert b"2" == await third
    assert 0 == limit.admitted


async def test_only_pages_take_turns() -> None:
    """A page takes memory until it is encoded: never 200 of them at once."""
    for name, limit in concurrency_limits().items():
        served, three = Served(), range(3)
        answer = limit.around(served, None)
        calls = [asyncio.create_task(answer(b"", CALL)) for _ in three]
        await settle()
        assert (PAGES_RUNNING_MAX if name == "page" else len(three)) == served.now, name
        served.go.set()
        await asyncio.gather(*calls)


def test_every_rpc_that_reads_a_page_takes_turns() -> None:
    """The requests of pages have a page token, and no others have."""
    paged = {
        method.full_name
        for method in METHODS.values()
        if "page_token" in method.input_type.fields_by_name
    }
    assert paged == {name for name, row in POLICY.items() if row.call_class is CallClass.PAGE}


async def test_one_peer_leaves_room_for_others() -> None:
    """One address may fill three quarters of a limit."""
    for name, limit in concurrency_limits().items():
        served, others = Served(), CALL._replace(peer="ipv4:127.0.0.2:1")
        answer = limit.around(served, None)
        calls: list[asyncio.Task[bytes]] = []
        while limit.admitted == len(calls):
            calls.append(asyncio.create_task(answer(b"", CALL)))
            await settle()
        with pytest.raises(RpcError):
            await calls.pop()
        assert MAXIMA[name] * 3 // 4 == limit.admitted
        calls.append(asyncio.create_task(answer(b"", others)))
        await settle()
        assert limit.admitted == len(calls)
        served.go.set()
        await asyncio.gather(*calls)
