"""BatchVerify: all verdicts on one revision, or an error for the whole batch."""

from __future__ import annotations

import pytest

from keyauthority.v1 import key_authority_service_pb2, key_pb2
from tests.service.callers import (
    Caller,
    absent_project,
    new_key,
    new_operator,
    revoke,
    verify,
    with_other_secret,
)

Batch = key_authority_service_pb2.BatchVerifyRequest
One = key_authority_service_pb2.VerifyRequest
LEFT_OUT = ("permissions", "labels", "key", "project")


def test_batch_verdicts_equal_verify_in_request_order(root: Caller, project: str) -> None:
    """Each answer equals that of Verify, without labels, permissions and records."""
    made = new_key(root, project, "RESTRICTED", labels={"team": "a"})
    gone = new_key(root, project)
    revoke(root, access_key=gone.key.access_key)
    token = made.secret_key
    requests = [
        One(secret_key=token, permissions=["orders:read"], include_record=True),
        One(secret_key=token, permissions=["orders:write"], explain=True),
        One(secret_key=gone.secret_key),
        One(secret_key=with_other_secret(token)),
        One(secret_key=""),
        One(secret_key=token, mode=key_pb2.KEY_MODE_LIVE, project_id=absent_project()),
        One(secret_key=token),
    ]
    answers = root.ask(Batch(requests=requests)).responses
    assert 1 == len({(answer.revision, answer.log_id) for answer in answers})
    assert len(requests) == len(answers)
    for request, answer in zip(requests, answers, strict=True):
        single = root.ask(request)
        for field in LEFT_OUT:
            single.ClearField(field)
        single.revision = answer.revision
        assert single == answer


def test_batch_size_limits_are_enforced(root: Caller, project: str) -> None:
    """1000 items are served, one of them repeated; 1001 and none are rejected."""
    token = new_key(root, project).secret_key
    answers = root.ask(Batch(requests=[One(secret_key=token)] * 1000)).responses
    assert 1000 == sum(answer.valid for answer in answers)
    for count in (0, 1001):
        refused = root.refused(Batch(requests=[One(secret_key=token)] * count))
        assert ("INVALID_ARGUMENT", {"requests"}) == (refused.code.name, refused.fields)


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        ("permissions[0]", One(permissions=["orders:*"])),
        ("client_ip", One(client_ip="10.0.0.256")),
        ("mode", One(mode=9)),  # type: ignore[arg-type]
        ("cost", One(cost=-1)),
        ("referrer", One(referrer="x" * 5000)),
    ],
)
def test_invalid_item_rejects_the_batch(
    root: Caller, project: str, field: str, bad: key_authority_service_pb2.VerifyRequest
) -> None:
    """The item is named by its index from 0; no other item is answered."""
    good = One(secret_key=new_key(root, project).secret_key)
    refused = root.refused(Batch(requests=[good, good, bad]))
    assert ("INVALID_ARGUMENT", {f"requests[2].{field}"}) == (refused.code.name, refused.fields)


def test_unmet_demand_of_one_item_rejects_the_batch(root: Caller, project: str) -> None:
    """A future revision, another log or a record without the right is a status, not a verdict."""
    good = One(secret_key=new_key(root, project).secret_key)
    for bad, reason in (
        (One(at_least_revision=2**62), "REVISION_AHEAD"),
        (One(log_id=absent_project()), "LOG_MISMATCH"),
    ):
        assert reason == root.refused(Batch(requests=[good, bad])).reason
    verifier = new_operator(root, "keys:verify")
    refused = verifier.refused(Batch(requests=[good, One(include_record=True)]))
    assert {"permission": "keys:read"} == refused.metadata
    ahead = One(at_least_revision=2**62)
    refused = verifier.refused(Batch(requests=[ahead, One(include_record=True)]))
    assert {"permission": "keys:read"} == refused.metadata  # a right comes before every state


def test_batch_is_evaluated_at_the_head(root: Caller, project: str) -> None:
    """The common revision of the answers is not older than the last change."""
    made = new_key(root, project)
    revoked = revoke(root, access_key=made.key.access_key)
    (answer,) = root.ask(Batch(requests=[One(secret_key=made.secret_key)])).responses
    assert key_authority_service_pb2.VERDICT_REVOKED == answer.verdict
    assert answer.revision >= revoked.revision
    assert verify(root, made.secret_key).revision >= answer.revision
