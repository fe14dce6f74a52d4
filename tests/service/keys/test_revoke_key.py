"""RevokeKey by right and by secret: once and permanent."""

from __future__ import annotations

import pytest

from keyauthority.v1 import key_authority_service_pb2, key_pb2
from tests.service.callers import (
    BASE62,
    MIB,
    Caller,
    Refusal,
    get_key,
    new_key,
    new_operator,
    new_project,
    revoke,
    verdict,
    with_other_secret,
)

SMALL = {"access_key", "project_id", "state", "revoke_time", "revision"}


def refused(caller: Caller, **fields: object) -> Refusal:
    """The refusal of a revocation."""
    return caller.refused(key_authority_service_pb2.RevokeKeyRequest(**fields))  # type: ignore[arg-type]


def bad_credential(answer: Refusal) -> bool:
    """True for the one answer to every invalid token."""
    return ("UNAUTHENTICATED", "CREDENTIAL_INVALID") == (answer.code.name, answer.reason)


def test_revoke_returns_the_revoked_record(root: Caller, project: str) -> None:
    """The answer has state, time, reason and note; GetKey returns the same."""
    made = new_key(root, project, purpose="nightly export")
    reason = key_pb2.REVOKE_REASON_LEAKED
    answer = revoke(root, access_key=made.key.access_key, reason=reason, note="on a paste site")
    assert key_pb2.KEY_STATE_REVOKED == answer.key.state
    assert (reason, "on a paste site") == (answer.key.revoke_reason, answer.key.revoke_note)
    assert answer.key.update_time == answer.key.revoke_time
    assert answer.revision == answer.key.revision > made.revision
    assert (made.log_id, "nightly export") == (answer.log_id, answer.key.purpose)
    assert answer.key.etag != made.key.etag
    assert answer.key == get_key(root, made.key.access_key)


@pytest.mark.parametrize("kind", ["SECRET", "RESTRICTED", "PUBLISHABLE"])
def test_verify_of_a_revoked_key_of_each_kind_is_revoked(
    root: Caller, project: str, kind: str
) -> None:
    """The first Verify after the answer says REVOKED."""
    made = new_key(root, project, kind)
    revoke(root, access_key=made.key.access_key)
    assert "REVOKED" == verdict(root, made.secret_key)


def test_revoke_twice_keeps_the_first_revocation(root: Caller, project: str) -> None:
    """The second call is OK, keeps time, reason and note, and makes no change."""
    made = new_key(root, project)
    first = revoke(root, access_key=made.key.access_key, note="first")
    second = revoke(
        root, access_key=made.key.access_key, note="second", reason=key_pb2.REVOKE_REASON_OTHER
    )
    assert first.key == second.key
    assert second.revision >= first.revision


def test_revoke_by_secret_needs_no_metadata_and_returns_little(
    root: Caller, nobody: Caller, project: str
) -> None:
    """The answer shows only facts that the secret itself contains."""
    made = new_key(root, project, "RESTRICTED", purpose="internal")
    answer = revoke(nobody, secret_key=made.secret_key, note="leaked")
    assert SMALL == {field.name for field, _ in answer.key.ListFields()}
    assert (made.key.access_key, project) == (answer.key.access_key, answer.key.project_id)
    assert key_pb2.KEY_STATE_REVOKED == answer.key.state
    assert (answer.revision, made.log_id) == (answer.key.revision, answer.log_id)
    assert "REVOKED" == verdict(root, made.secret_key)
    assert "leaked" == get_key(root, made.key.access_key).revoke_note


def test_revoke_by_secret_twice_is_unchanged(root: Caller, nobody: Caller, project: str) -> None:
    """The second revocation is OK, with the first time."""
    made = new_key(root, project)
    first = revoke(nobody, secret_key=made.secret_key)
    assert first.key == revoke(nobody, secret_key=made.secret_key).key


def test_revoke_with_matching_access_key_and_secret_succeeds(
    root: Caller, nobody: Caller, project: str
) -> None:
    """Both may be given, with and without a credential."""
    for caller in (nobody, root):
        made = new_key(root, project)
        revoke(caller, access_key=made.key.access_key, secret_key=made.secret_key)
        assert "REVOKED" == verdict(root, made.secret_key)


def test_revoke_with_mismatched_access_key_and_secret_is_refused(
    root: Caller, nobody: Caller, project: str
) -> None:
    """Neither of the two keys is revoked, not even by the first operator."""
    one, other = new_key(root, project), new_key(root, project)
    for caller in (nobody, root):
        answer = refused(caller, access_key=one.key.access_key, secret_key=other.secret_key)
        assert bad_credential(answer)
    assert ["VALID"] * 2 == [verdict(root, made.secret_key) for made in (one, other)]


def test_revoke_by_publishable_token_is_refused(root: Caller, nobody: Caller, project: str) -> None:
    """A public token revokes nothing, alone or with its access key."""
    made = new_key(root, project, "PUBLISHABLE")
    for caller in (nobody, root):
        assert bad_credential(refused(caller, secret_key=made.secret_key))
        fields = {"access_key": made.key.access_key, "secret_key": made.secret_key}
        assert bad_credential(refused(caller, **fields))
    assert "VALID" == verdict(root, made.secret_key)


def test_revoke_by_invalid_secret_returns_identical_bytes(
    root: Caller, nobody: Caller, project: str
) -> None:
    """Damaged, unknown, wrong, malformed or 1 MiB: one error and no effect."""
    made = new_key(root, project)
    token = made.secret_key
    damaged = token[:-1] + BASE62[(BASE62.index(token[-1]) + 1) % 62]
    answers = {
        refused(nobody, secret_key=secret).status
        for secret in (
            *(damaged, with_other_secret(token), token + "x", " " + token, token.lower()),
            *("x", "\u00e9", "x" * MIB, made.key.access_key),
        )
    }
    assert 1 == len(answers)
    assert "VALID" == verdict(root, token)


def test_revoke_by_secret_works_without_the_right(root: Caller, project: str) -> None:
    """The answer equals that of a caller without a credential."""
    made = new_key(root, project)
    reader = new_operator(root, "keys:read")
    answer = refused(reader, access_key=made.key.access_key)
    assert ("PERMISSION_DENIED", {"permission": "keys:revoke"}) == (
        answer.code.name,
        answer.metadata,
    )
    small = revoke(reader, secret_key=made.secret_key)
    assert SMALL == {field.name for field, _ in small.key.ListFields()}


def test_revoke_of_a_foreign_key_needs_its_secret(root: Caller, project: str) -> None:
    """A foreign key does not exist for the operator until it presents the secret."""
    made = new_key(root, project)
    confined = new_operator(root, "*:*", projects=[new_project(root)])
    assert "KEY_NOT_FOUND" == refused(confined, access_key=made.key.access_key).reason
    small = revoke(confined, secret_key=made.secret_key)
    assert SMALL == {field.name for field, _ in small.key.ListFields()}


def test_revoke_with_bad_operator_key_and_good_secret_is_refused(
    root: Caller, project: str
) -> None:
    """A presented credential must be valid, even if the secret would be enough."""
    made = new_key(root, project)
    stranger = root.bearing(("authorization", "Bearer op_live_wrong"))
    assert bad_credential(refused(stranger, secret_key=made.secret_key))
    assert "VALID" == verdict(root, made.secret_key)


def test_revoke_leaves_other_keys_valid(root: Caller, project: str) -> None:
    """Only the named key is revoked."""
    one, other = new_key(root, project), new_key(root, project)
    revoke(root, access_key=one.key.access_key)
    assert other.key == get_key(root, other.key.access_key)
    assert "VALID" == verdict(root, other.secret_key)
