"""CreateKey and GetKey: the answer for each kind and mode, and secrets shown only once."""

from __future__ import annotations

import uuid
from datetime import timedelta

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from keyauthority import TOKEN_PATTERN
from keyauthority.v1 import key_authority_service_pb2, key_pb2
from tests.service.callers import (
    ABSENT_KEY,
    Caller,
    absent_project,
    get_key,
    key_request,
    new_key,
    new_operator,
    new_project,
    verdict,
)
from tests.service.processes import wait_until

PREFIXES = {"SECRET": "sk", "RESTRICTED": "rk", "PUBLISHABLE": "pk"}
MODES = ("TEST", "LIVE")
SECRET_AT = 29  # behind "sk_test_KA…_"
RESTRICTIONS = key_pb2.Restrictions(
    allowed_ips=["10.0.0.0/8", "2001:db8::1"],
    allowed_referrers=["https://*.shop.example/*"],
    android_apps=[key_pb2.AndroidApp(package="example.shop", sha1="0123456789" * 4)],
    ios_bundle_ids=["example.shop.ios"],
    api_targets=[key_pb2.ApiTargetRestriction(service="translate.example", methods=["Get*"])],
)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", PREFIXES)
def test_created_key_returns_a_token_of_its_kind_and_mode(
    root: Caller, project: str, kind: str, mode: str
) -> None:
    """A token states kind and mode, names its key, and matches the published pattern."""
    made = new_key(root, project, kind, mode=key_pb2.KeyMode.Value(f"KEY_MODE_{mode}"))
    prefix = f"{PREFIXES[kind]}_{mode.lower()}_{made.key.access_key}_"
    assert made.secret_key.startswith(prefix)
    assert TOKEN_PATTERN.fullmatch(made.secret_key)
    assert (35 if kind == "PUBLISHABLE" else 78) == len(made.secret_key)
    assert f"KEY_MODE_{mode}" == key_pb2.KeyMode.Name(made.key.mode)
    assert f"KEY_KIND_{kind}" == key_pb2.KeyKind.Name(made.key.kind)


def test_created_key_records_its_maker_and_time(root: Caller, project: str) -> None:
    """The record has actor, peer address, one time for both fields and the revision."""
    operator = new_operator(root, "keys:*")
    made = new_key(operator, project)
    assert (project, key_pb2.KEY_STATE_ACTIVE) == (made.key.project_id, made.key.state)
    assert (operator.key.access_key, "127.0.0.1") == (made.key.created_by, made.key.created_from)
    assert made.key.create_time == made.key.update_time
    assert made.revision == made.key.revision > operator.key.revision
    assert str(uuid.UUID(made.log_id)) == made.log_id
    assert made.key.etag


@pytest.mark.parametrize("kind", ["SECRET", "RESTRICTED", "OPERATOR"])
def test_secret_is_returned_at_creation_only(root: Caller, project: str, kind: str) -> None:
    """Neither the answer's record nor GetKey nor ListKeys holds any part of the secret."""
    made = new_key(root, "" if kind == "OPERATOR" else project, kind)
    secret = made.secret_key[SECRET_AT:].encode()
    wanted = key_authority_service_pb2.KeyFilter(kind=made.key.kind)
    listed = key_authority_service_pb2.ListKeysRequest(
        project_id=made.key.project_id, filter=wanted, page_size=1000
    )
    shown = get_key(root, made.key.access_key)
    assert made.key == shown
    for answer in (made.key, shown, root.ask(listed)):
        assert secret not in answer.SerializeToString()
        assert b"" == getattr(answer, "publishable_key", "").encode()


def test_publishable_token_is_returned_again(root: Caller, project: str) -> None:
    """A caller who may read the key may read its public token again."""
    made = new_key(root, project, "PUBLISHABLE")
    assert made.secret_key == made.key.publishable_key
    assert made.secret_key == get_key(root, made.key.access_key).publishable_key
    listed = root.ask(key_authority_service_pb2.ListKeysRequest(project_id=project))
    assert [made.secret_key] == [key.publishable_key for key in listed.keys]


def test_created_key_settings_are_returned_unchanged(root: Caller, project: str) -> None:
    """Each setting is in the answer and in GetKey, unusual characters included."""
    request = key_request(
        project,
        "RESTRICTED",
        purpose="n\u00e4chtlicher Export \u202e \U0001f511 '; DROP TABLE keys; --",
        permissions=["orders:read", "billing.*:write", "*:read"],
        restrictions=RESTRICTIONS,
        expire_time=Timestamp(seconds=4_102_444_800, nanos=123_456_000),
        rate_limit=key_pb2.RateLimit(limit=10, period=Duration(seconds=60)),
        quota=key_pb2.Quota(limit=1000, period=key_pb2.QUOTA_PERIOD_MONTH),
        labels={"team": "caf\u00e9", "empty": ""},
    )
    made = root.ask(request).key
    for key in (made, get_key(root, made.access_key)):
        for field in (
            *("purpose", "permissions", "restrictions", "expire_time", "rate_limit", "quota"),
            "labels",
        ):
            assert (field, getattr(request, field)) == (field, getattr(key, field))


def test_app_certificate_is_normalized_to_lower_case_without_colons(
    root: Caller, project: str
) -> None:
    """The two common spellings of a SHA-1 are one certificate."""
    colons = ":".join(["AB"] * 20)
    restrictions = key_pb2.Restrictions(
        android_apps=[key_pb2.AndroidApp(package="example.shop", sha1=colons)]
    )
    made = new_key(root, project, restrictions=restrictions)
    assert "ab" * 20 == made.key.restrictions.android_apps[0].sha1


def test_ttl_counts_from_the_commit(root: Caller, project: str) -> None:
    """expire_time is create_time plus ttl, to the microsecond."""
    made = new_key(root, project, ttl=Duration(seconds=3600, nanos=5_000)).key
    life = made.expire_time.ToDatetime() - made.create_time.ToDatetime()
    assert timedelta(hours=1, microseconds=5) == life


def test_key_without_an_end_has_no_expire_time(root: Caller, project: str) -> None:
    """An unset expire_time means never."""
    assert not new_key(root, project).key.HasField("expire_time")


def test_key_past_its_end_is_shown_as_expired(root: Caller, project: str) -> None:
    """The state is evaluated at the time of the answer."""
    made = new_key(root, project, ttl=Duration(nanos=1_000_000))
    wait_until(
        lambda: key_pb2.KEY_STATE_EXPIRED == get_key(root, made.key.access_key).state, seconds=5
    )


def test_two_keys_share_no_random_part(root: Caller, project: str) -> None:
    """Access keys and secrets are random."""
    first, second = new_key(root, project), new_key(root, project)
    assert first.key.access_key != second.key.access_key
    assert first.secret_key[SECRET_AT:] != second.secret_key[SECRET_AT:]


def test_each_change_takes_the_next_revision(root: Caller, project: str) -> None:
    """Revisions grow; a later write has the higher revision."""
    revisions = [new_key(root, project).revision for _ in range(5)]
    assert sorted(set(revisions)) == revisions


def test_operator_key_is_live_and_has_no_project(root: Caller) -> None:
    """Its mode may be omitted or given."""
    for mode in (key_pb2.KEY_MODE_UNSPECIFIED, key_pb2.KEY_MODE_LIVE):
        made = new_key(root, "", "OPERATOR", mode=mode, permissions=["keys:read"])
        assert made.secret_key.startswith(f"op_live_{made.key.access_key}_")
        assert ("", key_pb2.KEY_MODE_LIVE) == (made.key.project_id, made.key.mode)


def test_operator_key_lists_its_projects(root: Caller, project: str) -> None:
    """The confinement is part of the record."""
    operator = new_operator(root, "*:*", projects=[project])
    assert [project] == get_key(root, operator.key.access_key).operator_projects


def test_create_key_in_absent_and_foreign_project_returns_identical_bytes(
    root: Caller, project: str
) -> None:
    """CreateKey does not reveal which projects exist."""
    confined = new_operator(root, "*:*", projects=[new_project(root)])
    absent = confined.refused(key_request(absent_project()))
    assert ("NOT_FOUND", "PROJECT_NOT_FOUND") == (absent.code.name, absent.reason)
    assert absent == confined.refused(key_request(project))
    assert absent == root.refused(key_request(absent_project()))


def test_get_and_revoke_of_absent_and_foreign_key_return_identical_bytes(
    root: Caller, project: str
) -> None:
    """GetKey and RevokeKey do not reveal which keys exist, and change none."""
    made = new_key(root, project)
    confined = new_operator(root, "*:*", projects=[new_project(root)])
    for request in (
        key_authority_service_pb2.GetKeyRequest,
        key_authority_service_pb2.RevokeKeyRequest,
    ):
        absent = confined.refused(request(access_key=ABSENT_KEY))
        assert ("NOT_FOUND", "KEY_NOT_FOUND") == (absent.code.name, absent.reason)
        assert absent == confined.refused(request(access_key=made.key.access_key))
        assert absent == root.refused(request(access_key=ABSENT_KEY))
    assert made.key == get_key(root, made.key.access_key)


def test_confined_operator_creates_and_reads_keys_of_its_projects(
    root: Caller, project: str
) -> None:
    """Inside its projects a confined operator has all its rights."""
    confined = new_operator(root, "keys:*", projects=[project])
    made = new_key(confined, project)
    assert made.key == get_key(confined, made.key.access_key)
    assert "VALID" == verdict(confined, made.secret_key)


def test_refused_creation_changes_nothing(root: Caller, project: str) -> None:
    """A refused call leaves neither a key nor a revision."""
    before = new_key(root, project)
    root.refused(key_request(project, purpose="x" * 201))
    root.refused(key_request(absent_project()))
    listed = root.ask(key_authority_service_pb2.ListKeysRequest(project_id=project))
    assert [before.key] == list(listed.keys)
