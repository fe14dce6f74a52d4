"""BatchVerify of cached keys: answered from memory if all verdicts are VALID, else evaluated."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from keyauthority.clock import SystemClock
from keyauthority.model import KeyKind, KeyMode, Quota, QuotaPeriod, VerdictCode
from keyauthority.requests import UsageQuery
from keyauthority.v1 import key_authority_service_pb2 as pb
from keyauthority_server.metrics import Metrics
from keyauthority_server.rpc_types import RpcError
from keyauthority_server.services.cached_verification import CachedVerification
from keyauthority_server.services.verification import Verification
from tests.faults.folders import process
from tests.service.verify.test_cached_verify import DAY, Asker, create, update
from tests.service.verify.test_cached_verify import data as data  # the fixture

ANOTHER_ID = "3f9d3a4e-6d5c-4d3e-9c0a-7c1d1a4f5b6e"
BATCH = pb.BatchVerifyResponse.FromString


async def test_limits_of_a_batch_are_spent_each_time(data: Path) -> None:
    """A batch with a limited key is evaluated in full."""
    async with process(data) as one:
        created, free = await create(one, quota=Quota(3, QuotaPeriod.TOTAL)), await create(one)
        asker = Asker(one)
        found = [(await asker.ask_each(created, free, created))[2] for _ in range(2)]
        assert ["VERDICT_VALID", "VERDICT_QUOTA_EXCEEDED"] == found


async def test_each_verdict_of_a_batch_is_counted(data: Path) -> None:
    """The metrics of a batch are those of as many calls of Verify."""
    async with process(data) as one:
        metrics = Metrics()
        asker, valid = Asker(one, metrics), await create(one)
        disabled = await create(one)
        await update(one, disabled, disabled=True)
        await asker.ask_each(valid, disabled, valid, disabled, valid)
        await asker.ask(valid)
        await asker.ask_each(valid, valid)
        counts = metrics.take()
        assert counts is not None
        assert {"VALID": 6, "DISABLED": 2} == counts["events"]["keyauthority_verifications"]


async def test_batch_from_memory_equals_the_evaluated_one(data: Path) -> None:
    """Of keys of several kinds, with and without facts."""
    async with process(data) as one:
        end = SystemClock().now() + DAY
        keys = [
            await create(one, labels={"team": "a"}, mode=KeyMode.TEST),
            await create(one, kind=KeyKind.PUBLISHABLE, expire_time=end),
            await create(one, kind=KeyKind.RESTRICTED, permissions=("orders:*",), purpose="x"),
        ]
        asked = [{}, {"client_ip": "10.0.0.1"}, {"permissions": ["orders:read"], "cost": 7}]
        requests = [
            pb.VerifyRequest(secret_key=created.secret_key.reveal(), **facts)  # type: ignore[arg-type]  # as named
            for created, facts in zip(keys, asked, strict=True)
        ]
        asker, body = Asker(one), pb.BatchVerifyRequest(requests=requests).SerializeToString()
        await asker.answer_batch(body)  # which caches the records
        with patch.object(CachedVerification, "verify_all", return_value=None):
            evaluated = await asker.answer_batch(body)
        with patch.object(Verification, "verify_batch", side_effect=AssertionError):
            cached = await asker.answer_batch(body)
        assert [True] * 3 == [each.valid for each in BATCH(evaluated).responses]
        assert BATCH(evaluated) == BATCH(cached)


@pytest.mark.parametrize(
    ("asked", "count"),
    [
        ({"explain": True}, 10),
        ({"include_record": True}, 10),
        ({"at_least_revision": 1}, 10),
        ({"log_id": ANOTHER_ID}, 6),
        ({"project_id": ANOTHER_ID}, 9),
    ],
    ids=["explain", "record", "revision", "another log", "denied"],
)
async def test_batch_not_answered_from_memory_is_counted_once(
    data: Path, asked: dict[str, Any], count: int
) -> None:
    """The items before the one that must be evaluated are VALID and cached."""
    async with process(data) as one:
        created, asker = await create(one), Asker(one)
        plain = [pb.VerifyRequest(secret_key=created.secret_key.reveal())] * 3
        rare = pb.VerifyRequest(secret_key=created.secret_key.reveal(), **asked)
        for requests in (plain, plain, [*plain, rare]):
            with suppress(RpcError):  # for another log
                await asker.answer_batch(
                    pb.BatchVerifyRequest(requests=requests).SerializeToString()
                )
    async with process(data) as one:
        query = UsageQuery(access_key=created.key.access_key)
        page = await one.authority.usage.get(await one.caller("usage:read"), query, b"", 10)
        rows = [row.count for row in page.items if row.verdict is VerdictCode.VALID]
        assert [count] == rows
