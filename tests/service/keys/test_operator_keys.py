"""Operator keys: delegation stays within the maker's rights, and ended keys admit no call."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from keyauthority.v1 import key_authority_service_pb2, key_pb2, project_service_pb2
from tests.service.callers import (
    Caller,
    bearer,
    get_key,
    key_request,
    new_key,
    new_operator,
    new_project,
    revoke,
    with_other_secret,
)
from tests.service.processes import wait_until

LIST_PROJECTS = project_service_pb2.ListProjectsRequest()
HOUR = Duration(seconds=3600)


def beyond(maker: Caller, **fields: object) -> None:
    """The maker may not create this operator key, because of its own limits."""
    refused = maker.refused(key_request("", "OPERATOR", **fields))
    assert ("PERMISSION_DENIED", "BEYOND_OWN_RIGHTS") == (refused.code.name, refused.reason)


@pytest.mark.parametrize("wanted", ["*:*", "keys:*", "*:read", "projects:read", "keys:revoke"])
def test_operator_key_with_more_rights_than_its_maker_is_refused(root: Caller, wanted: str) -> None:
    """Every grant must be covered by one of the maker's own."""
    maker = new_operator(root, "operators:create", "keys:read", "keys:create")
    beyond(maker, permissions=["keys:read", wanted])
    beyond(maker, permissions=["keys:read", wanted], expire_time=Timestamp(seconds=1))  # and wrong
    assert new_operator(maker, "keys:read", "keys:create").key.created_by == maker.key.access_key


@pytest.mark.parametrize("wrong", ["keys:nonsense", "keys:verfy", "orders:*", "keys:write"])
def test_unknown_operator_right_is_rejected(root: Caller, wrong: str) -> None:
    """CreateKey and UpdateKey answer with the list of rights; project keys take any text."""
    made = new_operator(root, "keys:read")
    for request in (
        key_request("", "OPERATOR", permissions=["keys:read", wrong]),
        key_authority_service_pb2.UpdateKeyRequest(
            access_key=made.key.access_key,
            permissions=["keys:read", wrong],
            update_mask=FieldMask(paths=["permissions"]),
        ),
    ):
        refused = root.refused(request)
        assert ("INVALID_ARGUMENT", ["permissions[1]"]) == (refused.code.name, [*refused.fields])
        assert "the rights are audit:read, changes:watch, keys:create" in refused.details
    assert new_key(root, new_project(root), "RESTRICTED", permissions=[wrong])


def test_operator_key_beyond_its_makers_projects_is_refused(root: Caller, project: str) -> None:
    """A confined operator must name projects, and only its own."""
    other = new_project(root)
    maker = new_operator(root, "*:*", projects=[project])
    beyond(maker, permissions=["keys:read"])
    beyond(maker, permissions=["keys:read"], operator_projects=[other])
    beyond(maker, permissions=["keys:read"], operator_projects=[project, other])
    assert [project] == new_operator(maker, "keys:read", projects=[project]).key.operator_projects


def test_operator_key_that_outlives_its_maker_is_refused(root: Caller) -> None:
    """Neither a later end nor no end is allowed."""
    maker = new_operator(root, "*:*", ttl=HOUR)
    end = maker.key.expire_time
    beyond(maker, permissions=["keys:read"])
    beyond(maker, permissions=["keys:read"], ttl=Duration(seconds=3601))
    later = Timestamp(seconds=end.seconds, nanos=end.nanos + 1_000)
    beyond(maker, permissions=["keys:read"], expire_time=later)
    assert end == new_operator(maker, "keys:read", expire_time=end).key.expire_time


def test_keys_rights_do_not_cover_operator_keys(root: Caller) -> None:
    """`keys:*` creates, reads, lists and revokes no operator key."""
    clerk = new_operator(root, "keys:*", "projects:*")
    kind = key_authority_service_pb2.KeyFilter(kind=key_pb2.KEY_KIND_OPERATOR)
    for request, right in (
        (key_request("", "OPERATOR", permissions=["keys:read"]), "create"),
        (key_authority_service_pb2.GetKeyRequest(access_key=clerk.key.access_key), "read"),
        (key_authority_service_pb2.ListKeysRequest(filter=kind), "read"),
        (key_authority_service_pb2.RevokeKeyRequest(access_key=clerk.key.access_key), "revoke"),
    ):
        refused = clerk.refused(request)
        assert ("PERMISSION_DENIED", "PERMISSION_MISSING") == (refused.code.name, refused.reason)
        assert {"permission": f"operators:{right}"} == refused.metadata
    assert key_pb2.KEY_STATE_ACTIVE == get_key(root, clerk.key.access_key).state


def test_operators_rights_do_not_cover_project_keys(root: Caller, project: str) -> None:
    """`operators:*` does not imply `keys:*`."""
    made = new_key(root, project)
    registrar = new_operator(root, "operators:*")
    for request in (
        key_request(project),
        key_authority_service_pb2.GetKeyRequest(access_key=made.key.access_key),
        key_authority_service_pb2.ListKeysRequest(project_id=project),
        key_authority_service_pb2.RevokeKeyRequest(access_key=made.key.access_key),
    ):
        assert "PERMISSION_MISSING" == registrar.refused(request).reason


def test_operator_keys_are_listed_by_kind_only(root: Caller, project: str) -> None:
    """ListKeys without a project lists project keys; with kind OPERATOR, operator keys."""
    made, operator = new_key(root, project), new_operator(root, "keys:read")

    def listed(kind: key_pb2.KeyKind.ValueType, created_by: str) -> set[str]:
        wanted = key_authority_service_pb2.KeyFilter(kind=kind)
        request = key_authority_service_pb2.ListKeysRequest(filter=wanted, page_size=1000)
        found: set[str] = set()
        while True:
            page = root.ask(request)
            found |= {key.access_key for key in page.keys if key.created_by == created_by}
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    by = operator.key.created_by
    operators = listed(key_pb2.KEY_KIND_OPERATOR, by)
    assert operator.key.access_key in operators
    assert made.key.access_key not in operators
    others = listed(key_pb2.KEY_KIND_UNSPECIFIED, by)
    assert made.key.access_key in others
    assert operator.key.access_key not in others


def test_revoked_operator_key_is_unauthenticated(root: Caller) -> None:
    """The next call is rejected and the error does not state why."""
    operator = new_operator(root, "projects:read")
    operator.ask(LIST_PROJECTS)
    revoke(root, access_key=operator.key.access_key)
    refused = operator.refused(LIST_PROJECTS)
    assert ("UNAUTHENTICATED", "CREDENTIAL_INVALID") == (refused.code.name, refused.reason)


def test_expired_operator_key_is_unauthenticated(root: Caller) -> None:
    """A call at expire_time is rejected with the bytes of any bad credential."""
    operator = new_operator(root, "projects:read", ttl=Duration(nanos=1_000_000))
    end = operator.key.expire_time.ToDatetime(UTC)
    wait_until(lambda: datetime.now(UTC) > end + timedelta(milliseconds=1))
    refused = operator.refused(LIST_PROJECTS)
    assert ("UNAUTHENTICATED", "CREDENTIAL_INVALID") == (refused.code.name, refused.reason)
    absent = root.bearing(bearer(with_other_secret(operator.metadata[0][1][7:])))
    assert absent.refused(LIST_PROJECTS) == refused


def test_operator_that_revokes_itself_is_locked_out(root: Caller) -> None:
    """Revocation by secret works for an operator key too and needs no right."""
    operator = new_operator(root, "projects:read")
    secret = operator.metadata[0][1].removeprefix("Bearer ")
    answer = revoke(Caller(root.channel), secret_key=secret)
    assert (operator.key.access_key, "") == (answer.key.access_key, answer.key.project_id)
    assert "CREDENTIAL_INVALID" == operator.refused(LIST_PROJECTS).reason
    assert "secret" != get_key(root, operator.key.access_key).created_by


@pytest.mark.parametrize("allowed", ["127.0.0.1", "127.0.0.0/8", "::ffff:127.0.0.1"])
def test_operator_key_is_accepted_from_its_allowed_addresses(root: Caller, allowed: str) -> None:
    """The peer's address is compared as a number."""
    restrictions = key_pb2.Restrictions(allowed_ips=["203.0.113.0/24", allowed])
    new_operator(root, "projects:read", restrictions=restrictions).ask(LIST_PROJECTS)


def test_operator_key_from_another_address_is_refused(root: Caller) -> None:
    """An address in the metadata is not trusted."""
    restrictions = key_pb2.Restrictions(allowed_ips=["203.0.113.7"])
    operator = new_operator(root, "*:*", restrictions=restrictions)
    claims = (("x-forwarded-for", "203.0.113.7"), ("forwarded", "for=203.0.113.7"))
    for metadata in (operator.metadata, (*operator.metadata, *claims)):
        refused = operator.bearing(*metadata).refused(LIST_PROJECTS)
        assert ("PERMISSION_DENIED", "ADDRESS_NOT_ALLOWED") == (refused.code.name, refused.reason)


def test_confined_operator_creates_no_project(root: Caller, project: str) -> None:
    """A new project would be outside its confinement."""
    confined = new_operator(root, "*:*", projects=[project])
    refused = confined.refused(project_service_pb2.CreateProjectRequest())
    assert "PERMISSION_DENIED" == refused.code.name


def test_confined_operator_sees_no_operator_key(root: Caller, project: str) -> None:
    """Operator keys belong to no project, so they do not exist for it."""
    confined = new_operator(root, "*:*", projects=[project])
    wanted = key_authority_service_pb2.KeyFilter(kind=key_pb2.KEY_KIND_OPERATOR)
    assert not confined.ask(key_authority_service_pb2.ListKeysRequest(filter=wanted)).keys
    other = new_operator(root, "keys:read")
    request = key_authority_service_pb2.GetKeyRequest(access_key=other.key.access_key)
    assert "KEY_NOT_FOUND" == confined.refused(request).reason


def test_confined_operator_creating_a_project_gets_the_true_reason(
    root: Caller, project: str
) -> None:
    """The error names the confinement, before any bad argument and not a missing right."""
    confined = new_operator(root, "*:*", projects=[project])
    for name in ("Shop", "x" * 201):
        refused = confined.refused(project_service_pb2.CreateProjectRequest(display_name=name))
        assert ("PERMISSION_DENIED", "PERMISSION_MISSING") == (refused.code.name, refused.reason)
        assert "confined to projects" in refused.details


def test_operator_key_with_more_addresses_than_its_maker_is_refused(root: Caller) -> None:
    """A caller limited to some addresses creates no key for others or for all."""
    own = key_pb2.Restrictions(allowed_ips=["127.0.0.0/8", "2001:db8::/32"])
    maker = new_operator(root, "*:*", restrictions=own)
    beyond(maker, permissions=["keys:read"])
    for foreign in ("0.0.0.0/0", "126.0.0.0/7", "::/0", "203.0.113.7"):
        wider = key_pb2.Restrictions(allowed_ips=["127.0.0.1", foreign])
        beyond(maker, permissions=["keys:read"], restrictions=wider)
    within = key_pb2.Restrictions(allowed_ips=["127.0.0.1", "::ffff:127.1.0.0/112"])
    made = new_operator(maker, "keys:read", restrictions=within)
    rotate = key_authority_service_pb2.RotateKeyRequest(access_key=made.key.access_key)
    assert maker.ask(rotate).key.predecessor_access_key == made.key.access_key


def test_operator_key_beyond_the_caller_can_only_be_narrowed(root: Caller) -> None:
    """Fewer rights or addresses, an earlier end, disabling: yes. Any widening: no."""
    registrar = new_operator(root, "operators:*", "keys:read")
    strong = new_operator(root, "keys:*", "projects:*")

    def change(paths: str, **fields: object) -> key_authority_service_pb2.UpdateKeyRequest:
        return key_authority_service_pb2.UpdateKeyRequest(
            access_key=strong.key.access_key,
            update_mask=FieldMask(paths=paths.split()),
            **fields,  # type: ignore[arg-type]  # fields of the message
        )

    ends = Timestamp(seconds=int(datetime.now(UTC).timestamp()) + 7200)
    later = Timestamp(seconds=ends.seconds + 1)
    only = key_pb2.Restrictions(allowed_ips=["127.0.0.1"])
    for narrowing in (
        change("purpose", purpose="batch"),
        change("permissions", permissions=["keys:*", "projects:read"]),
        change("expire_time", expire_time=ends),
        change("restrictions", restrictions=only),
        change("disabled", disabled=True),
    ):
        assert registrar.ask(narrowing).key.access_key == strong.key.access_key
    for widening in (
        change("disabled", disabled=False),
        change("permissions", permissions=["keys:*", "projects:*"]),
        change("expire_time", expire_time=later),
        change("expire_time"),
        change("restrictions"),
        change("restrictions permissions", permissions=["projects:read"]),
    ):
        refused = registrar.refused(widening)
        assert ("PERMISSION_DENIED", "BEYOND_OWN_RIGHTS") == (refused.code.name, refused.reason)
    assert registrar.ask(
        change("permissions disabled", permissions=["keys:read"], disabled=False)
    ).key.permissions == ["keys:read"]
