"""LookupKey: the record of the key that a token proves."""

from __future__ import annotations

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from keyauthority.v1 import key_authority_service_pb2, key_pb2, usage_service_pb2
from tests.service.callers import (
    MIB,
    Caller,
    get_key,
    mended,
    new_key,
    new_operator,
    new_project,
    revoke,
    verdict,
    with_other_secret,
)
from tests.service.lifecycle import update
from tests.service.processes import wait_until


def lookup(secret_key: str) -> Message:
    """Return the request of LookupKey."""
    return key_authority_service_pb2.LookupKeyRequest(secret_key=secret_key)


@pytest.mark.parametrize("kind", ["SECRET", "RESTRICTED", "PUBLISHABLE"])
def test_lookup_returns_the_key_and_its_project(root: Caller, project: str, kind: str) -> None:
    """Every kind of a project's key, publishable ones included."""
    made = new_key(root, project, kind)
    found = root.ask(lookup(made.secret_key))
    assert (made.key, project) == (found.key, found.project.project_id)


def test_lookup_returns_keys_in_every_state(root: Caller, project: str) -> None:
    """The record is returned whether or not the key is still valid."""
    disabled, expired, revoked, rotated = (
        new_key(root, project),
        new_key(root, project, ttl=Duration(nanos=1_000_000)),
        new_key(root, project),
        new_key(root, project),
    )
    update(root, disabled.key.access_key, disabled=True)
    revoke(root, access_key=revoked.key.access_key)
    root.ask(
        key_authority_service_pb2.RotateKeyRequest(
            access_key=rotated.key.access_key, overlap=Duration()
        )
    )
    for made, state in (
        (disabled, key_pb2.KEY_STATE_DISABLED),
        (revoked, key_pb2.KEY_STATE_REVOKED),
        (rotated, key_pb2.KEY_STATE_SUPERSEDED),
    ):
        assert state == root.ask(lookup(made.secret_key)).key.state
    wait_until(
        lambda: (
            key_pb2.KEY_STATE_EXPIRED == root.ask(lookup(expired.secret_key)).key.state  #
        )
    )


def test_lookup_counts_nothing_and_does_not_move_last_use(root: Caller, project: str) -> None:
    """Usage and last_used_time are those of Verify alone."""
    made = new_key(root, project)
    assert "VALID" == verdict(root, made.secret_key)
    wait_until(lambda: get_key(root, made.key.access_key).HasField("last_used_time"))
    used = get_key(root, made.key.access_key).last_used_time
    for _ in range(3):
        assert used == root.ask(lookup(made.secret_key)).key.last_used_time
    usage = usage_service_pb2.GetUsageRequest(project_id=project)
    assert [1] == [row.count for row in root.ask(usage).rows]


def test_lookup_of_any_other_text_returns_identical_bytes(root: Caller, project: str) -> None:
    """Damaged, wrong, foreign and absent tokens are one NOT_FOUND."""
    made, elsewhere = new_key(root, project), new_project(root)
    foreign = new_key(root, elsewhere).secret_key
    confined = new_operator(root, "keys:read", projects=[project])
    other_kind = mended("rk" + made.secret_key[2:])
    absent = mended(f"{made.secret_key[:8]}KA000000000000000000{made.secret_key[28:]}")
    operator = root.metadata[0][1].removeprefix("Bearer ")
    texts = (
        *(with_other_secret(made.secret_key), other_kind, absent, foreign, operator),
        *(made.secret_key[:-1], "x", "x" * MIB, "\u00e9", made.key.access_key),
    )
    refusals = [confined.refused(lookup(text)) for text in texts]
    assert {"KEY_NOT_FOUND"} == {refused.reason for refused in refusals}
    assert 1 == len({refused.status for refused in refusals})


def test_lookup_of_an_operator_key_needs_the_right_to_read_operators(root: Caller) -> None:
    """Without it, the operator key does not exist; it has no project."""
    token = root.metadata[0][1].removeprefix("Bearer ")
    reader = new_operator(root, "keys:read")
    both = new_operator(root, "keys:read", "operators:read")
    assert "KEY_NOT_FOUND" == reader.refused(lookup(token)).reason
    assert (
        "PERMISSION_MISSING" == new_operator(root, "operators:read").refused(lookup(token)).reason
    )
    found = both.ask(lookup(token))
    assert key_pb2.KEY_KIND_OPERATOR == found.key.kind
    assert not found.HasField("project")


def test_lookup_without_a_token_is_an_invalid_argument(root: Caller) -> None:
    """An empty request names the missing field."""
    refused = root.refused(lookup(""))
    assert ("INVALID_ARGUMENT", {"secret_key"}) == (refused.code.name, refused.fields)
