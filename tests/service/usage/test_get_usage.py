"""Usage over the wire: verifications are counted and shown to their owner."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from keyauthority.v1 import key_authority_service_pb2 as pb
from keyauthority.v1 import usage_service_pb2
from keyauthority.v1.usage_service_pb2 import GetUsageRequest, ReportUsageRequest
from tests.conftest import Start
from tests.service.callers import (
    ABSENT_KEY,
    Caller,
    absent_project,
    new_key,
    new_operator,
    new_project,
    verdict,
    verify,
    with_other_secret,
)
from tests.service.processes import ServerProcess, kill, wait_until

FLUSHES = 5  # that are waited for, the beginning included


@pytest.fixture
def root(channel: grpc.Channel, server: ServerProcess) -> Caller:
    """A caller with the first operator key."""
    return Caller(channel, server.metadata)


def rows(caller: Caller, **fields: Any) -> list[Any]:
    """Return all rows that a query gives, in pages of 2."""
    found: list[Any] = []
    token = ""
    while True:
        request = GetUsageRequest(**fields, page_size=2, page_token=token)
        page = caller.ask(request)
        found += page.rows
        token = page.next_page_token
        if not token:
            return found


def counts(found: Iterable[Any]) -> Counter[str]:
    """Return how often each verdict was given."""
    seen: Counter[str] = Counter()
    for row in found:
        seen[pb.Verdict.Name(row.verdict).removeprefix("VERDICT_")] += row.count
    return seen


def stamp(moment: datetime) -> Timestamp:
    """Return the moment as the wire has it."""
    made = Timestamp()
    made.FromDatetime(moment)
    return made


def row(access_key: str, **fields: Any) -> usage_service_pb2.UsageRow:
    """Return a verifier's report: five verifications an hour ago by default."""
    then = stamp(datetime.now(UTC) - timedelta(hours=1))
    given: dict[str, Any] = {
        "access_key": access_key,
        "verdict": pb.VERDICT_VALID,
        "bucket_time": then,
        "last_used_time": then,
        "count": 5,
        "cost": 7,
    }
    return usage_service_pb2.UsageRow(**(given | fields))


def report(caller: Caller, *reported: Any, batch_id: str = "") -> None:
    """Report a batch."""
    caller.ask(ReportUsageRequest(batch_id=batch_id or str(uuid.uuid4()), rows=reported))


def test_usage_sums_the_verifications_of_all_workers(server: ServerProcess, root: Caller) -> None:
    """Over several connections, the sum of each verdict equals the answers."""
    project_id = new_project(root)
    made = new_key(root, project_id, "RESTRICTED")
    expected: Counter[str] = Counter()
    options = (("grpc.use_local_subchannel_pool", 1),)
    for number in range(8):
        with grpc.insecure_channel(server.address, options=options) as channel:
            caller = Caller(channel, server.metadata)
            for turn in range(5):
                facts = {"permissions": ["orders:write"]} if turn == number % 5 else {"cost": 2}
                expected[verdict(caller, made.secret_key, **facts)] += 1
            verdict(caller, with_other_secret(made.secret_key))  # of no key that is known
    assert Counter({"VALID": 32, "MISSING_PERMISSION": 8}) == expected
    wait_until(lambda: counts(rows(root, project_id=project_id)) == expected)
    found = rows(root, access_key=made.key.access_key)
    assert {"VALID": 64, "MISSING_PERMISSION": 0} == {
        pb.Verdict.Name(one.verdict).removeprefix("VERDICT_"): one.cost for one in found
    }
    assert {(project_id, made.key.access_key)} == {
        (one.project_id, one.access_key) for one in found
    }
    days = rows(root, project_id=project_id, granularity=usage_service_pb2.USAGE_GRANULARITY_DAY)
    assert expected == counts(days)
    assert {0} == {one.bucket_time.seconds % 86_400 for one in days}


def test_last_used_time_is_accurate_to_a_second(root: Caller) -> None:
    """A key shows its last verification within a second, batches included."""
    made = new_key(root, new_project(root))
    get = pb.GetKeyRequest(access_key=made.key.access_key)
    assert not root.ask(get).key.HasField("last_used_time")
    one = pb.VerifyRequest(secret_key=made.secret_key)
    for request in (one, pb.BatchVerifyRequest(requests=[one])):
        start = time.time()
        root.ask(request)
        end = time.time()

        def used(since: float = start) -> bool:
            return bool(root.ask(get).key.last_used_time.ToMicroseconds() / 1e6 >= since - 0.1)

        wait_until(used, 3)  # a flush each second, and some for a slow machine
        assert root.ask(get).key.last_used_time.ToMicroseconds() / 1e6 <= end + 1


def test_counting_makes_no_change(root: Caller) -> None:
    """Verifications and reports change neither revision nor etag."""
    made = new_key(root, new_project(root))
    before = verify(root, made.secret_key).revision
    report(root, row(made.key.access_key))
    key = root.ask(pb.GetKeyRequest(access_key=made.key.access_key)).key
    assert (made.key.etag, made.key.update_time) == (key.etag, key.update_time)
    assert before == verify(root, made.secret_key).revision


def test_drained_server_has_stored_all_counts(start_server: Start, transport: str) -> None:
    """Verifications just before SIGTERM are counted after the next start."""
    server = start_server("--transport", transport, "--workers", "2")
    with grpc.insecure_channel(server.address) as channel:
        root = Caller(channel, server.metadata)
        project_id = new_project(root)
        secret_key = new_key(root, project_id).secret_key
        for _ in range(50):
            verify(root, secret_key)
    assert 0 == server.stop().code
    again = start_server("--transport", transport)
    with grpc.insecure_channel(again.address) as channel:
        found = rows(Caller(channel, again.metadata), project_id=project_id)
        assert Counter({"VALID": 50}) == counts(found)


def test_killed_worker_loses_at_most_one_second_of_counts(
    start_server: Start, transport: str
) -> None:
    """Counts are flushed each second, and flushed counts survive the kill."""
    server = start_server("--transport", transport)
    verified, flushes = 0, [(0.0, 0)]
    with grpc.insecure_channel(server.address) as channel:
        root = Caller(channel, server.metadata)
        project_id = new_project(root)
        secret_key = new_key(root, project_id).secret_key
        while len(flushes) < FLUSHES:
            verify(root, secret_key)
            verified += 1
            kept = sum(row.count for row in rows(root, project_id=project_id))
            if kept > flushes[-1][1]:
                flushes.append((time.monotonic(), kept))
        kill(server.worker_pids()[0])
    with grpc.insecure_channel(server.address) as channel:
        after = Caller(channel, server.metadata)
        wait_until(lambda: after.outcome("ListProjects", b"") is None)
        (found,) = rows(after, project_id=project_id)
    assert flushes[-1][1] <= found.count <= verified
    times = [moment for moment, _ in flushes[1:]]
    # the machine that tests may be slow, but not at each
    assert 1.5 > min(later - before for before, later in pairwise(times))


def test_reported_batch_counts_once(root: Caller) -> None:
    """The same batch_id again adds nothing, with any rows; a new one adds."""
    project_id = new_project(root)
    access_key = new_key(root, project_id).key.access_key
    batch_id = str(uuid.uuid4())
    for reported in (batch_id, batch_id.upper(), batch_id, str(uuid.uuid4())):
        report(root, row(access_key), row(access_key, cost=0), batch_id=reported)
    (found,) = rows(root, project_id=project_id)
    assert (20, 14, project_id) == (found.count, found.cost, found.project_id)


def test_report_moves_last_use_forward_but_not_into_the_future(root: Caller) -> None:
    """An older use does not move it back; a future one becomes now."""
    made = new_key(root, new_project(root))
    get = pb.GetKeyRequest(access_key=made.key.access_key)
    now = datetime.now(UTC)
    early, late = now - timedelta(hours=2), now - timedelta(hours=1)
    for reported, expected in ((late, late), (early, late)):
        report(root, row(made.key.access_key, last_used_time=stamp(reported)))
        assert stamp(expected) == root.ask(get).key.last_used_time
    future = stamp(now + timedelta(days=400))
    report(root, row(made.key.access_key, last_used_time=future, bucket_time=future))
    used = root.ask(get).key.last_used_time.ToDatetime(UTC)
    assert now - timedelta(seconds=1) <= used <= datetime.now(UTC) + timedelta(seconds=1)
    newest = rows(root, access_key=made.key.access_key)[-1].bucket_time.ToDatetime(UTC)
    assert now - timedelta(hours=1) < newest <= datetime.now(UTC)


def test_confined_operator_reads_and_reports_its_own_usage_only(root: Caller) -> None:
    """A foreign id is NOT_FOUND like an absent one; foreign rows are dropped."""
    own, foreign = (new_project(root) for _ in range(2))
    keys = {one: new_key(root, one).key.access_key for one in (own, foreign)}
    confined = new_operator(root, "usage:read", "usage:report", projects=[own])
    wrong = row(keys[own], project_id=foreign)
    report(confined, row(keys[own]), row(keys[foreign]), row(ABSENT_KEY), wrong)
    assert [own] == [one.project_id for one in rows(confined)]
    assert [] == rows(root, project_id=foreign)
    report(root, row(keys[foreign]))
    assert [own] == [one.project_id for one in rows(confined)]
    for field, theirs, absent in (
        ("project_id", foreign, absent_project()),
        ("access_key", keys[foreign], ABSENT_KEY),
    ):
        asked = [GetUsageRequest(), GetUsageRequest()]
        setattr(asked[0], field, theirs)
        setattr(asked[1], field, absent)
        refused = [confined.refused(one) for one in asked]
        assert refused[0] == refused[1]
        assert grpc.StatusCode.NOT_FOUND is refused[0].code
    elsewhere = GetUsageRequest(project_id=own, access_key=keys[foreign])
    assert grpc.StatusCode.NOT_FOUND is root.refused(elsewhere).code


def test_usage_page_token_is_bound_to_caller_and_filter(root: Caller) -> None:
    """A token of another caller, filter or list is rejected."""
    project_id = new_project(root)
    for _ in range(3):
        report(root, row(new_key(root, project_id).key.access_key))
    request = GetUsageRequest(project_id=project_id, page_size=1)
    token = root.ask(request).next_page_token
    keys = root.ask(pb.ListKeysRequest(project_id=project_id, page_size=1)).next_page_token
    other = new_operator(root, "usage:read")
    for caller, wanted in (
        (other, GetUsageRequest(project_id=project_id, page_token=token)),
        (root, GetUsageRequest(page_token=token)),
        (root, GetUsageRequest(project_id=project_id, page_token=keys)),
    ):
        assert {"page_token"} == caller.refused(wanted).fields
    request.page_token = token
    assert 1 == len(root.ask(request).rows)


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("rows[0].access_key", {"access_key": "KA1"}),
        ("rows[0].project_id", {"project_id": "P"}),
        ("rows[0].verdict", {"verdict": 0, "cost": 0}),
        ("rows[0].verdict", {"verdict": 99, "cost": 0}),
        ("rows[0].verdict", {"verdict": pb.VERDICT_UNKNOWN, "cost": 0}),
        ("rows[0].count", {"count": -1}),
        ("rows[0].cost", {"cost": -1}),
        ("rows[0].cost", {"cost": 1, "verdict": pb.VERDICT_REVOKED}),
        ("rows[0].bucket_time", {"bucket_time": None}),
        ("rows[0].bucket_time", {"bucket_time": Timestamp(seconds=2**62)}),
        ("rows[0].last_used_time", {"last_used_time": None}),
        ("rows[0].last_used_time", {"last_used_time": Timestamp(nanos=-1)}),
    ],
)
def test_invalid_row_rejects_the_batch(root: Caller, field: str, fields: dict[str, Any]) -> None:
    """The error names the row, and no row of the batch is counted."""
    project_id = new_project(root)
    good = new_key(root, project_id).key.access_key
    bad = row(**({"access_key": good} | fields))
    request = ReportUsageRequest(batch_id=str(uuid.uuid4()), rows=[bad, row(good)])
    refused = root.refused(request)
    assert (grpc.StatusCode.INVALID_ARGUMENT, {field}) == (refused.code, refused.fields)
    assert [] == rows(root, project_id=project_id)


def test_batch_needs_an_id_and_has_a_size_limit(root: Caller) -> None:
    """batch_id is a UUID version 4; a batch has at most 1000 rows."""
    for batch_id in ("", "1", str(uuid.uuid1())):
        assert {"batch_id"} == root.refused(ReportUsageRequest(batch_id=batch_id)).fields
    many = [row(ABSENT_KEY)] * 1001
    request = ReportUsageRequest(batch_id=str(uuid.uuid4()), rows=many)
    assert {"rows"} == root.refused(request).fields
    report(root, *many[:1000])


def test_usage_rights_are_separate(root: Caller) -> None:
    """usage:read does not allow reports, usage:report does not allow reads."""
    reader, reporter = new_operator(root, "usage:read"), new_operator(root, "usage:report")
    request = ReportUsageRequest(batch_id=str(uuid.uuid4()))
    assert {"permission": "usage:report"} == reader.refused(request).metadata
    assert {"permission": "usage:read"} == reporter.refused(GetUsageRequest()).metadata
    reporter.ask(request)
    reader.ask(GetUsageRequest())
