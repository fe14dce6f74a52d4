"""Repeated Verify of one key: a cached answer is never older than the last change.

Two processes of the authority on one store: one changes the records that the other has cached.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from unittest.mock import patch

import pytest

from keyauthority.clock import SystemClock
from keyauthority.errors import Unauthenticated
from keyauthority.model import KeyKind, KeyMode, Quota, QuotaPeriod, RateLimit, Restrictions
from keyauthority.requests import KeyUpdate, NewKey, ProjectUpdate, UsageQuery
from keyauthority.results import CreatedKey
from keyauthority.token import make, new_access_key, new_secret
from keyauthority.v1 import key_authority_service_pb2 as pb
from keyauthority_server.metering import usage
from keyauthority_server.metrics import Metrics
from keyauthority_server.rpc import services
from keyauthority_server.rpc_types import Call, RpcError, UnaryMethod
from keyauthority_server.runtime.bootstrap import prepare
from keyauthority_server.services.verification import Verification
from tests.faults.folders import Process, process, rotate, settings, states

SERVICE = "keyauthority.v1.KeyAuthorityService"
SOON = timedelta(seconds=0.5)
DAY = timedelta(days=1)


@pytest.fixture
async def data(tmp_path: Path) -> Path:
    """A data folder after its first start."""
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    await prepare(settings(folder))
    return folder


class Asker:
    """Calls Verify as a transport does."""

    def __init__(self, one: Process, metrics: Metrics | None = None) -> None:
        methods = services(one.authority, metrics)[SERVICE]
        self._verify, self._batch_verify = methods["Verify"], methods["BatchVerify"]
        self.call = Call((("x-auth-token", one.credential.text),), "ipv4:127.0.0.1:5000")

    async def ask(self, created: CreatedKey, **asked: object) -> str:
        """Return the verdict, or the status's message."""
        try:
            answer = await self.answer(created, **asked)
        except RpcError as refusal:
            return refusal.message
        return pb.Verdict.Name(answer.verdict)

    async def answer(self, created: CreatedKey, **asked: object) -> pb.VerifyResponse:
        """Return the whole answer; raises Refusal."""
        request = pb.VerifyRequest(secret_key=created.secret_key.reveal(), **asked)  # type: ignore[arg-type]  # any field
        assert isinstance(self._verify, UnaryMethod)
        return pb.VerifyResponse.FromString(
            await self._verify(request.SerializeToString(), self.call)
        )

    async def ask_each(self, *all_created: CreatedKey) -> list[str]:
        """Return the verdicts on several keys, of one call."""
        requests = [pb.VerifyRequest(secret_key=one.secret_key.reveal()) for one in all_created]
        body = pb.BatchVerifyRequest(requests=requests).SerializeToString()
        answer = pb.BatchVerifyResponse.FromString(await self.answer_batch(body))
        return [pb.Verdict.Name(one.verdict) for one in answer.responses]

    async def answer_batch(self, body: bytes) -> bytes:
        """Return the answer to a BatchVerify; raises Refusal."""
        assert isinstance(self._batch_verify, UnaryMethod)
        return await self._batch_verify(body, self.call)


@contextmanager
def counted() -> Iterator[list[str]]:
    """Note each verification that is worked out."""
    made: list[str] = []
    verify = Verification.verify

    async def noted(self: Verification, *given: object) -> object:
        made.append("verified")
        return await verify(self, *given)  # type: ignore[arg-type]  # handed on as it is

    with patch.object(Verification, "verify", noted):
        yield made


async def create(one: Process, **wanted: object) -> CreatedKey:
    """Make a key that may do all, unless more is wanted."""
    given = {"mode": KeyMode.LIVE, "kind": KeyKind.SECRET, **wanted}
    new = NewKey(project_id=await one.project(), **given)  # type: ignore[arg-type]  # as named
    return await one.authority.keys.create(await one.caller("keys:create"), new, b"content")


async def update(one: Process, created: CreatedKey, **fields: object) -> None:
    """Change fields of a key."""
    update = KeyUpdate(access_key=created.key.access_key, paths=frozenset(fields), **fields)  # type: ignore[arg-type]  # as named
    await one.authority.updates.key(await one.caller("keys:update"), update)


async def revoked(one: Process, created: CreatedKey) -> None:
    """Revoke the key."""
    await one.revoke(created.key.access_key)


async def disabled(one: Process, created: CreatedKey) -> None:
    """Disable the key."""
    await update(one, created, disabled=True)


async def narrowed(one: Process, created: CreatedKey) -> None:
    """Let the key be used from elsewhere only."""
    await update(one, created, restrictions=Restrictions(allowed_ips=("10.0.0.0/8",)))


async def shortened(one: Process, created: CreatedKey) -> None:
    """Have the key expire in a moment, and wait for it."""
    end = SystemClock().now() + SOON
    await update(one, created, expire_time=end)
    while SystemClock().now() < end:  # noqa: ASYNC110 - time itself is the event
        await asyncio.sleep(0.05)


async def suspended(one: Process, created: CreatedKey) -> None:
    """Suspend the key's project."""
    wanted = ProjectUpdate(
        project_id=created.key.project_id, paths=frozenset({"suspended"}), suspended=True
    )
    await one.authority.updates.project(await one.caller("projects:update"), wanted)


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        (revoked, "VERDICT_REVOKED"),
        (disabled, "VERDICT_DISABLED"),
        (narrowed, "VERDICT_IP_NOT_ALLOWED"),
        (shortened, "VERDICT_EXPIRED"),
        (suspended, "VERDICT_PROJECT_SUSPENDED"),
    ],
)
@pytest.mark.parametrize("limit", [None, RateLimit(1_000, DAY)], ids=["free", "limited"])
async def test_change_by_another_process_invalidates_cached_verdicts(
    data: Path,
    change: Callable[[Process, CreatedKey], Awaitable[None]],
    verdict: str,
    limit: RateLimit | None,
) -> None:
    """The very next Verify is evaluated on the new record."""
    async with process(data) as one, process(data) as other:
        created = await create(one, rate_limit=limit)
        kept, asker = await create(one), Asker(one)
        for _ in range(3):
            assert "VERDICT_VALID" == await asker.ask(created)
            assert ["VERDICT_VALID"] * 2 == await asker.ask_each(created, kept)
        await change(other, created)
        assert [verdict] * 2 == [await asker.ask(created) for _ in range(2)]
        assert verdict == (await asker.ask_each(created, kept))[0]


@pytest.mark.parametrize(("outlines", "reads"), [(True, 0), (False, 1)])
async def test_project_id_reads_as_much_for_a_cached_revoked_key_as_for_none(
    data: Path, outlines: bool, reads: int
) -> None:
    """The time of a read would tell them apart. PostgreSQL has no outlines."""
    async with process(data) as one:
        created, verification = await create(one), one.authority.verification
        secret_key = created.secret_key.reveal()
        assert created.key.project_id == await verification.project_id(secret_key, "")
        await revoked(one, created)
        with pytest.raises(Unauthenticated):
            await verification.project_id(secret_key, "")
        if not outlines:
            verification._context._outlines = None
        absent = make(KeyKind.SECRET, KeyMode.LIVE, new_access_key(), new_secret())
        for refused in (secret_key, absent.reveal()):
            one.authority.records.take_counts()
            with pytest.raises(Unauthenticated):
                await verification.project_id(refused, "")
            assert reads == one.authority.records.take_counts().miss


async def test_verifications_of_more_keys_than_can_be_counted_are_all_counted(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They wait for the flush of the counts before, on every path."""
    monkeypatch.setattr(usage, "COUNTS_MAX", 2)
    async with process(data) as one:
        keys, asker = [await create(one) for _ in range(5)], Asker(one)
        for _ in range(2):  # the second time from memory
            for created in keys:
                assert "VERDICT_VALID" == await asker.ask(created)
            assert ["VERDICT_VALID"] * 5 == await asker.ask_each(*keys)
    async with process(data) as one:
        caller = await one.caller("usage:read")
        page = await one.authority.usage.get(caller, UsageQuery(), b"", 10)
        assert [4] * 5 == [row.count for row in page.items]


async def test_cached_verdict_ends_at_the_keys_own_end(data: Path) -> None:
    """Expiry is no change, so the cache keeps its time with the answer."""
    async with process(data) as one:
        created, asker = await create(one, ttl=SOON), Asker(one)
        with counted() as made:
            while "VERDICT_VALID" == (verdict := await asker.ask(created)):  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.01)
        end = created.key.expire_time
        assert "VERDICT_EXPIRED" == verdict
        assert end is not None
        assert end <= SystemClock().now()
        assert 2 == len(made)


async def test_cached_verdicts_are_not_served_to_an_ended_operator(data: Path) -> None:
    """The revocation of the caller's own key is a change like any other."""
    async with process(data) as one, process(data) as other:
        created, asker = await create(one), Asker(one)
        assert "VERDICT_VALID" == await asker.ask(created)
        await other.revoke(one.credential.token.access_key)
        assert "invalid credential" == await asker.ask(created)


async def test_cached_verification_is_counted_each_time(data: Path) -> None:
    """The answer is computed once and counted per call and per batch item."""
    async with process(data) as one:
        created, asker = await create(one), Asker(one)
        with counted() as made:
            assert ["VERDICT_VALID"] * 5 == [await asker.ask(created, cost=3) for _ in range(5)]
        assert ["verified"] == made
        for _ in range(4):
            assert ["VERDICT_VALID"] * 2 == await asker.ask_each(created, created)
    async with process(data) as one:
        found = await one.authority.keys.get(await one.caller("keys:read"), created.key.access_key)
        assert found.last_used_time is not None
        query = UsageQuery(access_key=created.key.access_key)
        page = await one.authority.usage.get(await one.caller("usage:read"), query, b"", 10)
        assert [(13, 23)] == [(row.count, row.cost) for row in page.items]


async def test_limits_are_spent_on_every_cached_verify(data: Path) -> None:
    """In two processes taking turns, each answer equals the computed one."""
    limits = {"quota": Quota(13, QuotaPeriod.TOTAL), "rate_limit": RateLimit(1_000, DAY)}
    async with process(data) as one, process(data) as other:
        created = await create(one, **limits)
        askers = [Asker(one), Asker(other)]
        answers = [await askers[n % 2].answer(created, cost=3) for n in range(8)]
        assert [10, 7, 4, 1, 1, 1, 1, 1] == [answer.quota_standing.remaining for answer in answers]
        worked_out = await Asker(one).answer(created, cost=3)
        assert [worked_out] * 4 == answers[4:]
        assert "VERDICT_QUOTA_EXCEEDED" == pb.Verdict.Name(worked_out.verdict)
        first, last = answers[0], answers[3]
        assert (True, 997, 988) == (
            last.valid,
            first.key_standing.remaining,
            last.key_standing.remaining,
        )
        last.key_standing.CopyFrom(first.key_standing)
        last.quota_standing.CopyFrom(first.quota_standing)
        assert first == last
        assert ["VERDICT_VALID"] == [await askers[0].ask(created, cost=1)]
        assert 0 == (await askers[1].answer(created, cost=0)).quota_standing.remaining


async def test_lowered_limit_applies_to_the_next_spend(data: Path) -> None:
    """A limit is part of the record, which no cached answer outlives."""
    async with process(data) as one, process(data) as other:
        created, asker = await create(one, quota=Quota(9, QuotaPeriod.TOTAL)), Asker(one)
        assert [8, 7] == [(await asker.answer(created)).quota_standing.remaining for _ in "12"]
        await update(other, created, quota=Quota(2, QuotaPeriod.TOTAL))
        assert ["VERDICT_QUOTA_EXCEEDED"] * 2 == [await asker.ask(created) for _ in "12"]


@pytest.mark.parametrize(
    ("wanted", "asked"),
    [
        ({}, {"include_record": True}),
        ({"quota": Quota(5, QuotaPeriod.TOTAL)}, {"include_record": True}),
        ({}, {"project_id": "another"}),
    ],
    ids=["with its record", "limited, with its record", "denied"],
)
async def test_answer_that_depends_on_more_than_records_is_not_cached(
    data: Path, wanted: dict[str, object], asked: dict[str, object]
) -> None:
    """The last use is current, and a denial takes as long as any other."""
    async with process(data) as one:
        created, asker = await create(one, **wanted), Asker(one)
        with counted() as made:
            verdicts = {await asker.ask(created, **asked) for _ in range(3)}
        assert 1 == len(verdicts)
        assert 3 == len(made)


async def test_key_in_steady_use_gets_its_digest_upgraded(data: Path) -> None:
    """An answer cached under the old pepper is evaluated again under the new one."""
    async with process(data) as one:
        created, asker = await create(one), Asker(one)
        assert "VERDICT_VALID" == await asker.ask(created)
        assert 2 == await rotate(data)
        for _ in range(200):
            assert "VERDICT_VALID" == await asker.ask(created)
            if (await states(data))[1][1] == 0:
                break
            await asyncio.sleep(0.05)
        else:
            raise AssertionError("the digest stayed under the old pepper")


async def test_clock_jump_disables_cached_verdicts(data: Path) -> None:
    """Expiry is undecidable until the clock is confirmed."""
    async with process(data) as one:
        created, asker = await create(one), Asker(one)
        assert "VERDICT_VALID" == await asker.ask(created)
        ahead = SystemClock().now().timestamp() + 7200
        with patch("keyauthority.clock.time.time", lambda: ahead):
            assert "the clock has jumped" in await asker.ask(created)


async def operator(one: Process, **fields: object) -> CreatedKey:
    """Create an operator key that may verify."""
    new = NewKey(project_id="", kind=KeyKind.OPERATOR, permissions=("keys:verify",), **fields)  # type: ignore[arg-type]  # as named
    caller = await one.caller("operators:create")
    return await one.authority.keys.create(caller, new, b"operator")


async def test_cached_operator_key_is_refused_from_another_address(data: Path) -> None:
    """The address is compared in each call, not only in the first."""
    async with process(data) as one:
        created, asker = await create(one), Asker(one)
        only = Restrictions(allowed_ips=("127.0.0.1",))
        token = (await operator(one, restrictions=only)).secret_key.reveal()
        asker.call = asker.call._replace(metadata=(("x-auth-token", token),))
        assert ["VERDICT_VALID"] * 3 == [await asker.ask(created) for _ in range(3)]
        asker.call = asker.call._replace(peer="ipv4:192.0.2.1:5000")
        assert "VERDICT" not in await asker.ask(created)


async def test_cached_operator_key_is_refused_from_its_expiry_on(data: Path) -> None:
    """An expiry makes no change in the log; the cached authorization ends by the clock."""
    async with process(data) as one:
        created, asker = await create(one), Asker(one)
        made = await operator(one, ttl=SOON)
        token = made.secret_key.reveal()
        asker.call = asker.call._replace(metadata=(("x-auth-token", token),))
        while (answer := await asker.ask(created)) == "VERDICT_VALID":  # noqa: ASYNC110 - time itself is the event
            await asyncio.sleep(0.01)
        assert "invalid credential" == answer
        assert made.key.expire_time is not None
        assert made.key.expire_time <= SystemClock().now()
