"""GetProjectId: the project of a key, for the holder of its secret."""

from __future__ import annotations

import pytest
from google.protobuf.duration_pb2 import Duration

from keyauthority.v1 import key_authority_service_pb2
from tests.service.callers import (
    BASE62,
    MIB,
    Caller,
    new_key,
    new_operator,
    new_project,
    revoke,
    verdict,
    with_other_secret,
)
from tests.service.processes import wait_until

Request = key_authority_service_pb2.GetProjectIdRequest


def asked(caller: Caller, secret_key: str, access_key: str = "") -> str:
    """The project of a key."""
    return str(caller.ask(Request(secret_key=secret_key, access_key=access_key)).project_id)


@pytest.mark.parametrize("kind", ["SECRET", "RESTRICTED"])
def test_get_project_id_needs_only_the_secret(
    root: Caller, nobody: Caller, project: str, kind: str
) -> None:
    """No metadata is needed; an access key may be given and must then match."""
    made = new_key(root, project, kind)
    assert project == asked(nobody, made.secret_key)
    assert project == asked(nobody, made.secret_key, made.key.access_key)


def test_get_project_id_ignores_metadata(root: Caller, project: str) -> None:
    """A bad, doubled or foreign operator credential makes no difference."""
    secret = new_key(root, project).secret_key
    elsewhere = new_operator(root, "keys:read", projects=[new_project(root)])
    bad = ("authorization", "Bearer op_live_wrong")
    for caller in (elsewhere, root.bearing(bad), root.bearing(bad, ("x-auth-token", "x"))):
        assert project == asked(caller, secret)


def test_get_project_id_of_an_expired_key_answers(
    root: Caller, nobody: Caller, project: str
) -> None:
    """EXPIRED answers, as ACTIVE does."""
    made = new_key(root, project, ttl=Duration(nanos=1_000_000))
    wait_until(lambda: "EXPIRED" == verdict(root, made.secret_key), seconds=5)
    assert project == asked(nobody, made.secret_key)


def test_get_project_id_without_proof_returns_identical_bytes(
    root: Caller, nobody: Caller, project: str
) -> None:
    """Revoked, damaged, wrong, publishable and operator tokens get one error."""
    token, other = new_key(root, project).secret_key, new_key(root, project)
    gone = new_key(root, project)
    revoke(root, access_key=gone.key.access_key)
    operator = new_operator(root, "*:*").metadata[0][1].removeprefix("Bearer ")
    answers = {
        nobody.refused(Request(secret_key=secret, access_key=access_key)).status
        for secret, access_key in (
            (gone.secret_key, ""),
            (gone.secret_key, gone.key.access_key),
            (token[:-1] + BASE62[(BASE62.index(token[-1]) + 1) % 62], ""),
            (with_other_secret(token), ""),
            (new_key(root, project, "PUBLISHABLE").secret_key, ""),
            (operator, ""),
            (token, other.key.access_key),
            *(("x", ""), ("x" * MIB, ""), ("\u00e9", "")),
        )
    }
    assert 1 == len(answers)
    refused = nobody.refused(Request(secret_key="x"))
    assert ("UNAUTHENTICATED", "CREDENTIAL_INVALID") == (refused.code.name, refused.reason)


def test_get_project_id_without_a_secret_is_refused(
    root: Caller, nobody: Caller, project: str
) -> None:
    """Neither an access key nor an operator key replaces the secret."""
    made = new_key(root, project)
    for caller in (nobody, root):
        refused = caller.refused(Request(access_key=made.key.access_key))
        assert ("UNAUTHENTICATED", "CREDENTIAL_MISSING") == (refused.code.name, refused.reason)
