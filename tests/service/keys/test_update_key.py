"""UpdateKey and UpdateProject: field masks, etags, and limits of each kind."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from keyauthority.v1 import key_authority_service_pb2 as pb
from keyauthority.v1 import key_pb2, project_service_pb2
from tests.service.callers import (
    ABSENT_KEY,
    Caller,
    Refusal,
    absent_project,
    get_key,
    new_key,
    new_operator,
    new_project,
    revoke,
    verdict,
)
from tests.service.lifecycle import HOUR, from_now, rotate, seconds, update, update_project
from tests.service.lifecycle import update_request as request

DAY: Final = Duration(seconds=86_400)
NEXT_YEAR: Final = from_now(timedelta(days=365))

# For each path of UpdateKey: another value than the one in FULL.
KEY_PATHS: Final[dict[str, Any]] = {
    "purpose": "other",
    "permissions": ["orders:write", "billing.*:read"],
    "restrictions": key_pb2.Restrictions(allowed_ips=["10.0.0.0/8"]),
    "expire_time": from_now(HOUR),
    "rate_limit": key_pb2.RateLimit(limit=7, period=seconds(60)),
    "quota": key_pb2.Quota(limit=8, period=key_pb2.QUOTA_PERIOD_MONTH),
    "labels": {"team": "b"},
    "disabled": True,
}
FULL: Final[dict[str, Any]] = {
    "purpose": "first",
    "permissions": ["orders:read"],
    "restrictions": key_pb2.Restrictions(allowed_referrers=["https://shop.example/*"]),
    "expire_time": NEXT_YEAR,
    "rate_limit": key_pb2.RateLimit(limit=1, period=DAY),
    "quota": key_pb2.Quota(limit=2, period=key_pb2.QUOTA_PERIOD_TOTAL),
    "labels": {"team": "a"},
}
STAMPED: Final = ("etag", "revision", "update_time", "state")
PROJECT_PATHS: Final[dict[str, Any]] = {
    "display_name": "Other",
    "labels": {"team": "b"},
    "suspended": True,
    "rate_limit": key_pb2.RateLimit(limit=9, period=DAY),
}
# Paths that no update may name: immutable fields, parts of fields, and unknown fields.
UNKNOWN: Final = (
    *("access_key", "project_id", "mode", "kind", "operator_projects", "state", "revision"),
    *("etag", "update_mask", "restrictions.allowed_ips", "expireTime", "*", "", "labels.team"),
)


def only(record: Any, *changed: str) -> Any:
    """The record without its stamps and these fields, which an update must not change."""
    copy = type(record)()
    copy.CopyFrom(record)
    for field in (*changed, *(one for one in STAMPED if one in record.DESCRIPTOR.fields_by_name)):
        copy.ClearField(field)
    return copy


def told(refusal: Refusal) -> tuple[str, str, set[str]]:
    """The short form of a failure."""
    return (refusal.code.name, refusal.reason, refusal.fields)


@pytest.mark.parametrize("path", KEY_PATHS)
def test_update_changes_only_the_masked_fields(root: Caller, project: str, path: str) -> None:
    """Other fields of the request are ignored; the answer equals a later GetKey."""
    made = new_key(root, project, "RESTRICTED", **FULL)
    answer = root.ask(request(made.key.access_key, [path], **KEY_PATHS))
    expected = key_pb2.Key()
    expected.CopyFrom(made.key)
    expected.ClearField(path)  # type: ignore[arg-type]
    expected.MergeFrom(key_pb2.Key(**{path: KEY_PATHS[path]}))
    assert only(expected) == only(answer.key)
    assert (made.log_id, answer.revision) == (answer.log_id, answer.key.revision)
    assert answer.revision > made.revision
    assert answer.key.etag != made.key.etag
    assert answer.key.update_time.ToNanoseconds() >= made.key.update_time.ToNanoseconds()
    assert answer.key == get_key(root, made.key.access_key)


@pytest.mark.parametrize("path", [path for path in KEY_PATHS if path != "permissions"])
def test_masked_field_that_is_unset_is_cleared(root: Caller, project: str, path: str) -> None:
    """Unset means no purpose, no end, no limit, no labels, enabled."""
    made = new_key(root, project, "RESTRICTED", **FULL)
    update(root, made.key.access_key, disabled=True)
    cleared = root.ask(request(made.key.access_key, [path])).key
    assert path not in {field.name for field, _ in cleared.ListFields()}
    assert only(made.key, path, "disabled") == only(cleared, path, "disabled")


def test_unmasked_field_is_not_validated(root: Caller, project: str) -> None:
    """A field outside of the mask may hold any value."""
    made = new_key(root, project, "RESTRICTED", **FULL)
    bad: dict[str, Any] = {
        "permissions": ["no permission"],
        "restrictions": key_pb2.Restrictions(allowed_ips=["nowhere"]),
        "expire_time": Timestamp(seconds=10**15, nanos=-1),
        "rate_limit": key_pb2.RateLimit(limit=-1, period=Duration(seconds=10**15)),
        "quota": key_pb2.Quota(limit=-1),
        "labels": {"": "x" * 1000},
    }
    changed = root.ask(request(made.key.access_key, ["purpose"], purpose="new", **bad)).key
    assert "new" == changed.purpose
    assert only(made.key, "purpose") == only(changed, "purpose")
    wanted = project_service_pb2.UpdateProjectRequest(
        project_id=project, display_name="new", rate_limit=bad["rate_limit"]
    )
    wanted.update_mask.paths.append("display_name")
    answer = root.ask(wanted)
    assert ("new", False) == (answer.project.display_name, answer.project.HasField("rate_limit"))


def test_unknown_path_and_empty_mask_are_rejected(root: Caller, project: str) -> None:
    """Nothing changes, not even the valid fields of the same mask."""
    made = new_key(root, project)
    masks = [[], *([path] for path in UNKNOWN), ["purpose", "no_such_field"]]
    expected = ("INVALID_ARGUMENT", "INVALID_FIELD", {"update_mask"})
    for mask in masks:
        refused = root.refused(request(made.key.access_key, mask, purpose="changed"))
        assert expected == told(refused), mask
        wanted = project_service_pb2.UpdateProjectRequest(
            project_id=project, display_name="changed", update_mask=FieldMask(paths=mask)
        )
        assert expected == told(root.refused(wanted)), mask
    assert made.key == get_key(root, made.key.access_key)


def test_stale_etag_is_aborted(root: Caller, project: str) -> None:
    """The change must be based on the current version; this precedes the state check."""
    made = new_key(root, project)
    access_key, old = made.key.access_key, made.key.etag
    new = update(root, access_key, old, purpose="second").key.etag
    stale = request(access_key, None, old, purpose="third")
    assert ("ABORTED", "ETAG_MISMATCH", set()) == told(root.refused(stale))
    assert "second" == get_key(root, access_key).purpose
    assert "fourth" == update(root, access_key, new, purpose="fourth").key.purpose
    assert "ETAG_MISMATCH" == root.refused(request(access_key, None, new, purpose="fourth")).reason
    revoke(root, access_key=access_key)
    assert "ETAG_MISMATCH" == root.refused(stale).reason
    first = update_project(root, project, display_name="One").project.etag
    update_project(root, project, first, display_name="Two")
    with pytest.raises(grpc.RpcError, match="ABORTED"):
        update_project(root, project, first, display_name="Three")


def test_update_without_effect_makes_no_change(root: Caller, project: str) -> None:
    """Record, etag and update_time stay; the revision is the current one."""
    made = new_key(root, project, "RESTRICTED", **FULL)
    answer = update(root, made.key.access_key, **FULL, disabled=False)
    assert made.key == answer.key
    assert answer.revision >= made.revision
    before = update_project(root, project, display_name="Shop", suspended=False)
    after = update_project(root, project, display_name="Shop", suspended=False)
    assert before.project == after.project


def test_update_of_absent_and_foreign_record_returns_identical_bytes(
    root: Caller, project: str
) -> None:
    """A foreign key or project equals an absent one."""
    foreign = new_key(root, new_project(root)).key
    confined = new_operator(root, "*:*", projects=[project])
    absent = request(ABSENT_KEY, purpose="x", etag="r1")
    assert ("NOT_FOUND", "KEY_NOT_FOUND", set()) == told(root.refused(absent))
    hidden = confined.refused(request(foreign.access_key, purpose="x", etag="r1"))
    assert confined.refused(absent) == hidden
    for project_id in (absent_project(), foreign.project_id):
        wanted = project_service_pb2.UpdateProjectRequest(
            project_id=project_id, update_mask=FieldMask(paths=["display_name"])
        )
        assert "PROJECT_NOT_FOUND" == confined.refused(wanted).reason


@pytest.mark.parametrize(
    ("kind", "fields", "named"),
    [
        ("SECRET", {"permissions": ["orders:read"]}, "permissions"),
        ("RESTRICTED", {"permissions": []}, "permissions"),
        ("RESTRICTED", {"permissions": ["orders"]}, "permissions[0]"),
        ("OPERATOR", {"permissions": []}, "permissions"),
        ("OPERATOR", {"rate_limit": key_pb2.RateLimit(limit=1, period=DAY)}, "rate_limit"),
        ("OPERATOR", {"quota": KEY_PATHS["quota"]}, "quota"),
        ("OPERATOR", {"restrictions": FULL["restrictions"]}, "restrictions"),
    ],
)
def test_field_that_the_kind_cannot_have_is_rejected(
    root: Caller, project: str, kind: str, fields: dict[str, Any], named: str
) -> None:
    """A key keeps the properties of its kind; the error names the field."""
    key = new_key(root, "" if kind == "OPERATOR" else project, kind).key
    refused = root.refused(request(key.access_key, **fields))
    assert ("INVALID_ARGUMENT", "INVALID_FIELD", {named}) == told(refused)
    assert key == get_key(root, key.access_key)


def test_publishable_key_may_have_no_permissions(root: Caller, project: str) -> None:
    """A publishable key can be reduced to identification only."""
    made = new_key(root, project, "PUBLISHABLE")
    assert "VALID" == verdict(root, made.secret_key, permissions=["orders:read"])
    update(root, made.key.access_key, permissions=[])
    assert "MISSING_PERMISSION" == verdict(root, made.secret_key, permissions=["orders:read"])


def test_operator_key_is_not_updated_beyond_the_caller(root: Caller) -> None:
    """Neither widened, prolonged nor made endless; this includes the caller's own key."""
    maker = new_operator(root, "operators:*", "keys:read", ttl=HOUR)
    other = new_operator(maker, "keys:read", ttl=seconds(1800))
    end = maker.key.expire_time
    later = Timestamp(seconds=end.seconds + 1)
    for access_key in (maker.key.access_key, other.key.access_key):
        for fields in (
            {"permissions": ["keys:read", "keys:verify"]},
            {"permissions": ["keys:*"]},
            {"permissions": ["*:*"]},
            {"expire_time": later},
            {"expire_time": None},
        ):
            refused = maker.refused(request(access_key, **fields))
            assert ("PERMISSION_DENIED", "BEYOND_OWN_RIGHTS", set()) == told(refused), fields
    assert other.key == get_key(root, other.key.access_key)
    assert end == update(maker, other.key.access_key, expire_time=end).key.expire_time


def test_operator_key_update_needs_the_operators_right(root: Caller) -> None:
    """`keys:*` changes no operator key, `operators:*` no other."""
    clerk, registrar = new_operator(root, "keys:*"), new_operator(root, "operators:*")
    made = new_key(root, new_project(root))
    for caller, access_key, right in (
        (clerk, clerk.key.access_key, "operators:update"),
        (registrar, made.key.access_key, "keys:update"),
    ):
        refused = caller.refused(request(access_key, purpose="x"))
        assert ("PERMISSION_DENIED", {"permission": right}) == (refused.code.name, refused.metadata)


def test_narrowed_or_disabled_operator_loses_rights_at_once(root: Caller, project: str) -> None:
    """The next call is evaluated with the current key."""
    operator = new_operator(root, "keys:read", "keys:verify")
    made = new_key(root, project)
    assert "VALID" == verdict(operator, made.secret_key)
    update(root, operator.key.access_key, permissions=["keys:read"])
    verifying = pb.VerifyRequest(secret_key=made.secret_key)
    assert "PERMISSION_MISSING" == operator.refused(verifying).reason
    update(root, operator.key.access_key, disabled=True)
    assert "CREDENTIAL_INVALID" == operator.refused(verifying).reason
    update(root, operator.key.access_key, disabled=False, permissions=["keys:verify"])
    assert "VALID" == verdict(operator, made.secret_key)


@pytest.mark.parametrize("path", PROJECT_PATHS)
def test_project_update_changes_only_the_masked_fields(root: Caller, path: str) -> None:
    """Named fields only, and an unset one is cleared, as with keys."""
    project_id = new_project(root, "First")
    before = update_project(root, project_id, labels={"team": "a"}).project
    wanted = project_service_pb2.UpdateProjectRequest(
        project_id=project_id, update_mask=FieldMask(paths=[path]), **PROJECT_PATHS
    )
    answer = root.ask(wanted)
    expected = key_pb2.Project()
    expected.CopyFrom(before)
    expected.ClearField(path)  # type: ignore[arg-type]
    expected.MergeFrom(key_pb2.Project(**{path: PROJECT_PATHS[path]}))
    assert only(expected) == only(answer.project)
    assert answer.revision == answer.project.revision > before.revision
    unset = project_service_pb2.UpdateProjectRequest(
        project_id=project_id, update_mask=FieldMask(paths=[path])
    )
    cleared = root.ask(unset).project
    assert path not in {field.name for field, _ in cleared.ListFields()}


def test_suspended_project_allows_key_management(
    root: Caller, nobody: Caller, project: str
) -> None:
    """Suspension stops verification only; keys can be created, changed and revoked."""
    made = new_key(root, project)
    update_project(root, project, suspended=True)
    fresh = new_key(root, project)
    update(root, made.key.access_key, purpose="changed")
    rotated = rotate(root, made.key.access_key)
    revoke(root, access_key=made.key.access_key)
    for secret_key in (fresh.secret_key, rotated.secret_key):
        assert "PROJECT_SUSPENDED" == verdict(root, secret_key)
        asked = pb.GetProjectIdRequest(secret_key=secret_key)
        assert project == nobody.ask(asked).project_id
    assert "REVOKED" == verdict(root, made.secret_key)
    update_project(root, project, suspended=False)
    assert "VALID" == verdict(root, rotated.secret_key)
