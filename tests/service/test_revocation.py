"""RevokeKey: by right and by secret, once and for good."""

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
    """True for the one answer to what proves nothing."""
    return ("UNAUTHENTICATED", "CREDENTIAL_INVALID") == (answer.code.name, answer.reason)


def test_revoked_key_is_answered_whole(root: Caller, project: str) -> None:
    """The answer is the record with state, time, reason and note; GetKey gives the same."""
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
def test_revoked_key_of_each_kind_is_refused_by_verify(
    root: Caller, project: str, kind: str
) -> None:
    """The first Verify after the answer says REVOKED."""
    made = new_key(root, project, kind)
    revoke(root, access_key=made.key.access_key)
    assert "REVOKED" == verdict(root, made.secret_key)


def test_key_that_is_revoked_twice_stays_as_it_was(root: Caller, project: str) -> None:
    """The second call is OK, keeps the first time, reason and note, and makes no change."""
    made = new_key(root, project)
    first = revoke(root, access_key=made.key.access_key, note="first")
    second = revoke(
        root, access_key=made.key.access_key, note="second", reason=key_pb2.REVOKE_REASON_OTHER
    )
    assert first.key == second.key
    assert second.revision >= first.revision


def test_secret_alone_revokes_its_key_and_is_told_little(
    root: Caller, nobody: Caller, project: str
) -> None:
    """Self-revocation needs no metadata, and shows nothing that the secret does not say."""
    made = new_key(root, project, "RESTRICTED", purpose="internal")
    answer = revoke(nobody, secret_key=made.secret_key, note="leaked")
    assert SMALL == {field.name for field, _ in answer.key.ListFields()}
    assert (made.key.access_key, project) == (answer.key.access_key, answer.key.project_id)
    assert key_pb2.KEY_STATE_REVOKED == answer.key.state
    assert (answer.revision, made.log_id) == (answer.key.revision, answer.log_id)
    assert "REVOKED" == verdict(root, made.secret_key)
    assert "leaked" == get_key(root, made.key.access_key).revoke_note


def test_secret_of_a_revoked_key_is_answered_unchanged(
    root: Caller, nobody: Caller, project: str
) -> None:
    """Revoking twice by secret is OK, with the first time."""
    made = new_key(root, project)
    first = revoke(nobody, secret_key=made.secret_key)
    assert first.key == revoke(nobody, secret_key=made.secret_key).key


def test_access_key_and_secret_that_match_revoke(
    root: Caller, nobody: Caller, project: str
) -> None:
    """Both may be given, with and without a credential."""
    for caller in (nobody, root):
        made = new_key(root, project)
        revoke(caller, access_key=made.key.access_key, secret_key=made.secret_key)
        assert "REVOKED" == verdict(root, made.secret_key)


def test_access_key_and_secret_of_two_keys_revoke_neither(
    root: Caller, nobody: Caller, project: str
) -> None:
    """Whoever gives both must mean one key, the first operator too."""
    one, other = new_key(root, project), new_key(root, project)
    for caller in (nobody, root):
        answer = refused(caller, access_key=one.key.access_key, secret_key=other.secret_key)
        assert bad_credential(answer)
    assert ["VALID"] * 2 == [verdict(root, made.secret_key) for made in (one, other)]


def test_publishable_key_is_no_credential(root: Caller, nobody: Caller, project: str) -> None:
    """What is public revokes nothing, alone or with its access key, for anybody."""
    made = new_key(root, project, "PUBLISHABLE")
    for caller in (nobody, root):
        assert bad_credential(refused(caller, secret_key=made.secret_key))
        fields = {"access_key": made.key.access_key, "secret_key": made.secret_key}
        assert bad_credential(refused(caller, **fields))
    assert "VALID" == verdict(root, made.secret_key)


def test_what_is_no_working_secret_is_one_answer(
    root: Caller, nobody: Caller, project: str
) -> None:
    """Damaged, unknown, wrong, no token at all, 1 MiB: the same bytes, and nothing happens."""
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


def test_operator_without_the_right_revokes_by_the_secret(root: Caller, project: str) -> None:
    """The secret is right enough; the answer is that of a stranger."""
    made = new_key(root, project)
    reader = new_operator(root, "keys:read")
    answer = refused(reader, access_key=made.key.access_key)
    assert ("PERMISSION_DENIED", {"permission": "keys:revoke"}) == (
        answer.code.name,
        answer.metadata,
    )
    small = revoke(reader, secret_key=made.secret_key)
    assert SMALL == {field.name for field, _ in small.key.ListFields()}


def test_operator_of_another_project_revokes_by_the_secret_only(root: Caller, project: str) -> None:
    """A foreign key does not exist for him, until he proves it by its secret."""
    made = new_key(root, project)
    confined = new_operator(root, "*:*", projects=[new_project(root)])
    assert "KEY_NOT_FOUND" == refused(confined, access_key=made.key.access_key).reason
    small = revoke(confined, secret_key=made.secret_key)
    assert SMALL == {field.name for field, _ in small.key.ListFields()}


def test_bad_operator_key_beside_a_good_secret_is_refused(root: Caller, project: str) -> None:
    """A credential that is presented is judged, whatever else proves the call."""
    made = new_key(root, project)
    stranger = root.bearing(("authorization", "Bearer op_live_wrong"))
    assert bad_credential(refused(stranger, secret_key=made.secret_key))
    assert "VALID" == verdict(root, made.secret_key)


def test_revocation_of_one_key_leaves_the_others(root: Caller, project: str) -> None:
    """Exactly the key that is named ends."""
    one, other = new_key(root, project), new_key(root, project)
    revoke(root, access_key=one.key.access_key)
    assert other.key == get_key(root, other.key.access_key)
    assert "VALID" == verdict(root, other.secret_key)
