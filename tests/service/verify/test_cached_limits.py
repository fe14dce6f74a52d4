"""Limits of cached keys, spent from once for all calls of a turn of the event loop."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

from keyauthority.model import Quota, QuotaPeriod, RateLimit
from keyauthority.results import CreatedKey
from keyauthority.v1 import key_authority_service_pb2 as pb
from keyauthority_server.rpc import services
from keyauthority_server.rpc_types import DEFERRED, RpcError, UnaryMethod
from keyauthority_server.store.interface import StoreUnavailable
from keyauthority_server.store.sqlite.counters import SqliteCounters, counters_path
from keyauthority_server.store.sqlite.file_lock import FairFileLock
from tests.faults.folders import Process, process
from tests.service.verify.test_cached_verify import SERVICE, Asker, create
from tests.service.verify.test_cached_verify import data as data  # the fixture

DAY = timedelta(days=1)

LIMITS = {"quota": Quota(3, QuotaPeriod.MONTH), "rate_limit": RateLimit(5, DAY)}


async def warm(one: Process, *all_created: CreatedKey) -> UnaryMethod:
    """Return the method Verify once these keys, and the operator, are cached."""
    asker = Asker(one)
    for created in all_created:
        assert "VERDICT_VALID" == await asker.ask(created, cost=0)
    method = services(one.authority, None)[SERVICE]["Verify"]
    assert isinstance(method, UnaryMethod)
    return method


def requests_of(*all_created: CreatedKey, cost: int) -> list[bytes]:
    """Return the bytes of a request for each key."""
    secrets = [created.secret_key.reveal() for created in all_created]
    return [pb.VerifyRequest(secret_key=one, cost=cost).SerializeToString() for one in secrets]


async def test_limits_spent_for_a_turn_give_the_same_responses(data: Path) -> None:
    """Bytes equal those of the general handler: VALID and denied, with every limit."""
    async with process(data) as one:
        keys = [await create(one, **LIMITS), await create(one, quota=LIMITS["quota"])]
        method, call = await warm(one, *keys), Asker(one).call
        shortcut = method.shortcut
        assert shortcut is not None
        for cost in (0, 2, 0, 1, 0):  # those of 0 spend nothing, so both find the same counts
            bodies, settled = requests_of(*keys, cost=cost), dict[int, object]()
            shortcut.begin_turn()
            assert [DEFERRED] * 2 == [
                shortcut(body, call, ticket) for ticket, body in enumerate(bodies)
            ]
            assert {} == settled
            if waiting := shortcut.end_turn(settled.__setitem__):  # the thread has just spent
                await waiting
            if cost == 0:
                assert [settled[0], settled[1]] == [await method.answer(b, call) for b in bodies]
        (body, _) = requests_of(*keys, cost=0)
        last = pb.VerifyResponse.FromString(await method.answer(body, call))
        assert (2, 0) == (last.key_standing.remaining, last.quota_standing.remaining)
        assert pb.VERDICT_QUOTA_EXCEEDED == last.verdict


async def test_limits_wait_for_another_spender_without_holding_up_others(data: Path) -> None:
    """While the counters are locked, deferred calls wait and keys without limits do not."""
    async with process(data) as one:
        limited, free = await create(one, **LIMITS), await create(one)
        method, call = await warm(one, limited, free), Asker(one).call
        settled: dict[int, Any] = {}
        shortcut = method.shortcut
        assert shortcut is not None
        (body,), (other,) = requests_of(limited, cost=1), requests_of(free, cost=1)
        with FairFileLock(counters_path(data / "keyauthority.db")) as lock:
            shortcut.begin_turn()
            assert DEFERRED is shortcut(body, call, 1)
            assert isinstance(shortcut(other, call, 2), bytes)
            waiting = shortcut.end_turn(settled.__setitem__)
            assert waiting is not None
            spending = asyncio.create_task(waiting)
            await asyncio.sleep(0)
            assert isinstance(await method(other, call), bytes)
            assert {} == settled
        await spending
        lock.close()
        answer = pb.VerifyResponse.FromString(settled[1])
        assert (True, 2) == (answer.valid, answer.quota_standing.remaining)


async def test_limits_that_cannot_be_spent_fail_each_deferred_call(data: Path) -> None:
    """No verdict, and the turn is over: the next one spends on its own."""
    async with process(data) as one:
        limited = await create(one, **LIMITS)
        method, call = await warm(one, limited), Asker(one).call
        settled: dict[int, Any] = {}
        shortcut = method.shortcut
        assert shortcut is not None
        (body,) = requests_of(limited, cost=1)
        failure = StoreUnavailable("unknown outcome")
        with patch.object(SqliteCounters, "spend_now", side_effect=failure):
            shortcut.begin_turn()
            assert [DEFERRED] * 2 == [shortcut(body, call, ticket) for ticket in (1, 2)]
            assert shortcut.end_turn(settled.__setitem__) is None
        assert [1, 2] == list(settled)
        assert all(isinstance(refusal, RpcError) for refusal in settled.values())
        shortcut.begin_turn()
        assert shortcut.end_turn(settled.__setitem__) is None
        assert [1, 2] == list(settled)
