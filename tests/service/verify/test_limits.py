"""Rate limits and quotas over the wire: exact over all workers and through kill -9."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, NamedTuple

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

from keyauthority.v1 import key_authority_service_pb2 as pb
from keyauthority.v1 import key_pb2, project_service_pb2
from tests.conftest import Start
from tests.service.callers import (
    Caller,
    new_key,
    new_project,
    verdict,
    verify,
    with_other_secret,
)
from tests.service.processes import ServerProcess, kill, wait_until

CALLERS = 32
DAY = timedelta(days=1)
VALID, LIMITED, EXCEEDED = "VALID", "RATE_LIMITED", "QUOTA_EXCEEDED"


@pytest.fixture
def root(channel: grpc.Channel, server: ServerProcess) -> Caller:
    """A caller with the first operator key."""
    return Caller(channel, server.metadata)


@pytest.fixture
def project_id(root: Caller) -> str:
    """A project without a limit."""
    return new_project(root)


def rate(limit: int, period: timedelta = DAY) -> key_pb2.RateLimit:
    """A rate limit."""
    return key_pb2.RateLimit(limit=limit, period=Duration(seconds=int(period.total_seconds())))


def quota(limit: int, period: str = "TOTAL") -> key_pb2.Quota:
    """A quota."""
    return key_pb2.Quota(limit=limit, period=key_pb2.QuotaPeriod.Value(f"QUOTA_PERIOD_{period}"))


class Storm(NamedTuple):
    """The results of many calls at once."""

    verdicts: Counter[str]
    failed: int


@pytest.fixture
def storm() -> Iterator[Any]:
    """Verify from 32 connections at once, so that all workers take part; survives lost answers."""
    with ThreadPoolExecutor(CALLERS) as pool:

        def blow(server: ServerProcess, secret_key: str, calls: int, cost: int = 1) -> Storm:
            def one(count: int) -> list[str]:
                found = []
                options = (("grpc.use_local_subchannel_pool", 1),)
                with grpc.insecure_channel(server.address, options=options) as channel:
                    caller = Caller(channel, server.metadata)
                    for _ in range(count):
                        try:
                            found.append(verdict(caller, secret_key, cost=cost))
                        except grpc.RpcError:
                            found.append("")
                return found

            answers = Counter(
                name for some in pool.map(one, [calls // CALLERS] * CALLERS) for name in some
            )
            return Storm(answers, answers.pop("", 0))

        yield blow


@pytest.mark.case(17)
def test_concurrent_callers_get_exactly_the_limit(
    server: ServerProcess, root: Caller, project_id: str, storm: Any
) -> None:
    """Of 1,600 calls by 32 callers against a limit of 1,000 exactly 1,000 are VALID."""
    made = new_key(root, project_id, rate_limit=rate(1000))
    assert Storm(Counter({VALID: 1000, LIMITED: 600}), 0) == storm(server, made.secret_key, 1600)


@pytest.mark.case(17)
def test_quota_not_divisible_by_the_cost_is_never_overspent(
    server: ServerProcess, root: Caller, project_id: str, storm: Any
) -> None:
    """A quota of 777 admits a cost of 3 exactly 259 times."""
    made = new_key(root, project_id, quota=quota(777))
    wanted = Storm(Counter({VALID: 259, EXCEEDED: 61}), 0)
    assert wanted == storm(server, made.secret_key, 320, 3)


@pytest.mark.case(17)
@pytest.mark.parametrize("transport", ["native"], indirect=True)
def test_killed_worker_never_exceeds_a_limit(
    start_server: Start, transport: str, storm: Any
) -> None:
    """With a worker killed midway at most the limit are VALID, and few units are lost."""
    server = start_server("--transport", transport, "--workers", "2")
    with grpc.insecure_channel(server.address) as channel, ThreadPoolExecutor(1) as killer:
        root = Caller(channel, server.metadata)
        made = new_key(root, new_project(root), rate_limit=rate(1000), quota=quota(2500))
        valid = 0
        for replaced in (1, 2):
            killing = killer.submit(
                _when_half_spent, root, made.secret_key, lambda: kill(server.worker_pids()[0])
            )
            blown = storm(server, made.secret_key, 640)
            killing.result()
            valid += blown.verdicts[VALID]
            wait_until(partial(_have_served, server, 2 + replaced))
        valid += storm(server, made.secret_key, 1600).verdicts[VALID]
        left = verify(root, made.secret_key, cost=0)
        assert 1000 - 2 * CALLERS <= valid <= 1000  # a call that was cut may have spent
        assert 0 == left.key_standing.remaining
        assert 1500 == left.quota_standing.remaining


@pytest.mark.case(17)
def test_killed_server_never_exceeds_a_limit(start_server: Start, storm: Any) -> None:
    """With the whole server killed midway, the next one continues at the same count."""
    server = start_server("--workers", "2")
    with grpc.insecure_channel(server.address) as channel, ThreadPoolExecutor(1) as killer:
        root = Caller(channel, server.metadata)
        made = new_key(root, new_project(root), rate_limit=rate(1000), quota=quota(2500))
        killing = killer.submit(_when_half_spent, root, made.secret_key, server.kill)
        valid = storm(server, made.secret_key, 640).verdicts[VALID]
        killing.result()
    again = start_server("--workers", "2")
    valid += storm(again, made.secret_key, 1600).verdicts[VALID]
    assert 1000 - CALLERS <= valid <= 1000  # a call that was cut may have spent
    with grpc.insecure_channel(again.address) as channel:
        left = verify(Caller(channel, again.metadata), made.secret_key, cost=0)
        assert (0, 1500) == (left.key_standing.remaining, left.quota_standing.remaining)


def _have_served(server: ServerProcess, workers: int) -> bool:
    return server.log_text().count("worker_serves") == workers


def _when_half_spent(root: Caller, secret_key: str, end: Callable[[], object]) -> None:
    before = _remaining(root, secret_key)
    for _ in range(10_000):
        if _remaining(root, secret_key) <= before - 150 or before < 150:
            break
    end()


def _remaining(root: Caller, secret_key: str) -> int:
    try:
        return int(verify(root, secret_key, cost=0).key_standing.remaining)
    except grpc.RpcError:
        return 1000


def test_answer_reports_the_standing_of_each_limit(root: Caller) -> None:
    """Standings hold limit, remaining units and next window, also in denied answers."""
    project = root.ask(project_service_pb2.CreateProjectRequest(rate_limit=rate(5))).project
    limits: dict[str, Any] = {"rate_limit": rate(4), "quota": quota(3, "MONTH")}
    made = new_key(root, project.project_id, **limits)
    now = datetime.now(UTC)
    month = (now.replace(day=1) + timedelta(days=31)).strftime("%Y-%m-01T00:00:00Z")
    day = (now + DAY).strftime("%Y-%m-%dT00:00:00Z")
    for cost, left, name in ((2, (2, 3, 1), VALID), (2, (2, 3, 1), EXCEEDED)):
        answer = verify(root, made.secret_key, cost=cost)
        standings = (answer.key_standing, answer.project_standing, answer.quota_standing)
        assert name == pb.Verdict.Name(answer.verdict).removeprefix("VERDICT_")
        assert [(4, left[0], day), (5, left[1], day), (3, left[2], month)] == [
            (one.limit, one.remaining, one.reset_time.ToJsonString()) for one in standings
        ]
    total = new_key(root, project.project_id, quota=quota(3))
    standing = verify(root, total.secret_key, cost=0).quota_standing
    assert (3, False) == (standing.remaining, standing.HasField("reset_time"))


def test_key_without_limits_has_no_standings(root: Caller, project_id: str) -> None:
    """Standings are unset where there is no limit."""
    answer = verify(root, new_key(root, project_id).secret_key)
    fields = ("key_standing", "project_standing", "quota_standing")
    assert not any(answer.HasField(one) for one in fields)


def test_denied_verify_spends_from_no_counter(root: Caller) -> None:
    """Whichever check denies, key rate, project rate and quota keep their units."""
    project = root.ask(project_service_pb2.CreateProjectRequest(rate_limit=rate(9))).project
    limits: dict[str, Any] = {"rate_limit": rate(7), "quota": quota(5)}
    made = new_key(root, project.project_id, "RESTRICTED", **limits)

    def left() -> tuple[int, int, int]:
        seen = verify(root, made.secret_key, cost=0)
        return (
            seen.key_standing.remaining,
            seen.project_standing.remaining,
            seen.quota_standing.remaining,
        )

    assert VALID == verdict(root, made.secret_key)
    for name, facts in (
        (EXCEEDED, {"cost": 5}),
        (LIMITED, {"cost": 7}),
        ("MISSING_PERMISSION", {"permissions": ["orders:write"]}),
        ("MISSING_PERMISSION", {"permissions": ["orders:write"], "explain": True}),
    ):
        assert name == verdict(root, made.secret_key, **facts)
        assert (6, 8, 4) == left()
    assert "UNKNOWN" == verdict(root, with_other_secret(made.secret_key))
    assert (6, 8, 4) == left()


def test_rate_limit_precedes_quota_and_explain_lists_both(root: Caller, project_id: str) -> None:
    """RATE_LIMITED comes first; `failed` lists every failing check in the contract's order."""
    made = new_key(root, project_id, "RESTRICTED", rate_limit=rate(0), quota=quota(0))
    answer = verify(root, made.secret_key, explain=True)
    both = [pb.VERDICT_RATE_LIMITED, pb.VERDICT_QUOTA_EXCEEDED]
    assert (pb.VERDICT_RATE_LIMITED, both) == (answer.verdict, list(answer.failed))
    answer = verify(root, made.secret_key, explain=True, permissions=["orders:write"])
    assert pb.VERDICT_MISSING_PERMISSION == answer.verdict
    assert [pb.VERDICT_MISSING_PERMISSION, *both] == list(answer.failed)


def test_cost_is_counted_in_units(root: Caller, project_id: str) -> None:
    """Unset is 1; 0 asks if a unit is left; over the limit is denied; limit 0 denies all."""
    made = new_key(root, project_id, rate_limit=rate(3))
    for cost, name in ((4, LIMITED), (0, VALID), (2, VALID), (None, VALID), (0, LIMITED)):
        assert name == verdict(root, made.secret_key, cost=cost)
    none = new_key(root, project_id, rate_limit=rate(0))
    assert [LIMITED] * 2 == [verdict(root, none.secret_key, cost=cost) for cost in (0, 1)]


def test_project_limit_is_shared_by_its_keys(root: Caller) -> None:
    """All keys of a project spend from one counter, and no other project's do."""
    request = project_service_pb2.CreateProjectRequest(rate_limit=rate(2))
    first, second = (root.ask(request).project.project_id for _ in range(2))
    keys = [new_key(root, first).secret_key for _ in range(3)]
    assert [VALID, VALID, LIMITED] == [verdict(root, one) for one in keys]
    assert VALID == verdict(root, new_key(root, second).secret_key)


def test_batch_items_spend_in_order(root: Caller, project_id: str) -> None:
    """Items spend one after the other; a small one may fit after a denied one."""
    first = new_key(root, project_id, rate_limit=rate(5)).secret_key
    other = new_key(root, project_id, quota=quota(1)).secret_key
    items = ((first, 3), (other, 1), (first, 3), (first, 2), (other, 1), (first, 1))
    requests = [pb.VerifyRequest(secret_key=key, cost=cost) for key, cost in items]
    answers = root.ask(pb.BatchVerifyRequest(requests=requests)).responses
    names = [pb.Verdict.Name(one.verdict).removeprefix("VERDICT_") for one in answers]
    assert [VALID, VALID, LIMITED, VALID, EXCEEDED, LIMITED] == names
    assert [2, 2, 0, 0] == [answers[place].key_standing.remaining for place in (0, 2, 3, 5)]


def test_window_rolls_over(root: Caller, project_id: str) -> None:
    """A limit of one per second admits one each second and reports the next window."""
    made = new_key(root, project_id, rate_limit=rate(1, timedelta(seconds=1)))
    seen: Counter[str] = Counter()
    while len(seen) < 4:
        answer = verify(root, made.secret_key)
        seen[answer.key_standing.reset_time.ToJsonString()] += answer.valid
    *whole, _ = seen.values()
    assert [1] * 3 == whole


def test_lineage_shares_its_counters(root: Caller, project_id: str) -> None:
    """A rotated key continues its predecessor's count and spends from the same counters."""
    old = new_key(root, project_id, rate_limit=rate(4), quota=quota(9))
    verify(root, old.secret_key, cost=2)
    new = root.ask(pb.RotateKeyRequest(access_key=old.key.access_key))
    answer = verify(root, new.secret_key)
    assert (1, 6) == (answer.key_standing.remaining, answer.quota_standing.remaining)
    assert 0 == verify(root, old.secret_key).key_standing.remaining
    assert LIMITED == verdict(root, new.secret_key)


def test_changed_limit_applies_at_once(root: Caller, project_id: str) -> None:
    """A raised or lowered limit applies at once; a new period counts from zero."""
    made = new_key(root, project_id, rate_limit=rate(2))
    verify(root, made.secret_key, cost=2)
    for limit, remaining in (
        (rate(5), 3),
        (rate(1), 0),
        (rate(5, timedelta(hours=12)), 5),
        (rate(5), 3),
    ):
        root.ask(
            pb.UpdateKeyRequest(
                access_key=made.key.access_key,
                rate_limit=limit,
                update_mask=FieldMask(paths=["rate_limit"]),
            )
        )
        assert remaining == verify(root, made.secret_key, cost=0).key_standing.remaining


def test_missing_counters_give_no_verdict(start_server: Start, transport: str) -> None:
    """Without counters a limited key is neither VALID nor denied; others are evaluated."""
    server = start_server("--transport", transport)
    with grpc.insecure_channel(server.address) as channel:
        root = Caller(channel, server.metadata)
        project_id = new_project(root)
        made = new_key(root, project_id, rate_limit=rate(2))
        free = new_key(root, project_id)
        assert VALID == verdict(root, made.secret_key)
        counters = server.data / "keyauthority-counters.db"
        counters.rename(counters.with_suffix(".aside"))
        refused = root.refused(pb.VerifyRequest(secret_key=made.secret_key))
        assert (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE") == refused[:2]
        assert VALID == verdict(root, free.secret_key)
