"""Every RPC by every kind of caller, generated from the descriptors: who is let in, and who is not.

An RPC without a row fails. What a caller who is let in then gets is the matter of other modules:
here it is neither UNAUTHENTICATED nor PERMISSION_DENIED.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from keyauthority.v1 import (
    audit_service_pb2,
    key_authority_service_pb2,
    key_pb2,
    project_service_pb2,
    usage_service_pb2,
)
from tests.service.callers import (
    METHODS,
    Caller,
    Refusal,
    absent_project,
    bearer,
    key_request,
    mended,
    new_key,
    new_operator,
    new_project,
    revoke,
    with_other_secret,
)
from tests.service.processes import ServerProcess, wait_until

NO_MESSAGE: Final = b"\xff\xff\xff"
OPERATORS: Final = key_authority_service_pb2.KeyFilter(kind=key_pb2.KEY_KIND_OPERATOR)
MAKE_OPERATOR: Final = key_request("", "OPERATOR", permissions=["operators:create"])
RENAMED: Final = FieldMask(paths=["purpose"])


class World(NamedTuple):
    """What the calls are about, and who makes them, on one server."""

    root: Caller
    project: str
    access_key: str
    operator: str
    """The access key of an operator key that the calls are about."""
    secret_key: str
    revoked: Caller
    expired: Caller


class Row(NamedTuple):
    """A call that is served to whoever has the right."""

    method: str
    right: str
    request: Callable[[World], Message]


_keys, _projects = key_authority_service_pb2, project_service_pb2

ROWS: Final = (
    Row("CreateKey", "keys:create", lambda w: key_request(w.project)),
    Row("CreateKey", "operators:create", lambda w: MAKE_OPERATOR),
    Row("GetKey", "keys:read", lambda w: _keys.GetKeyRequest(access_key=w.access_key)),
    Row("GetKey", "operators:read", lambda w: _keys.GetKeyRequest(access_key=w.operator)),
    Row("ListKeys", "keys:read", lambda w: _keys.ListKeysRequest(project_id=w.project)),
    Row("ListKeys", "operators:read", lambda w: _keys.ListKeysRequest(filter=OPERATORS)),
    Row(
        "UpdateKey",
        "keys:update",
        lambda w: _keys.UpdateKeyRequest(access_key=w.access_key, update_mask=RENAMED),
    ),
    Row(
        "UpdateKey",
        "operators:update",
        lambda w: _keys.UpdateKeyRequest(access_key=w.operator, update_mask=RENAMED),
    ),
    Row("RotateKey", "keys:rotate", lambda w: _keys.RotateKeyRequest(access_key=w.access_key)),
    Row("RotateKey", "operators:rotate", lambda w: _keys.RotateKeyRequest(access_key=w.operator)),
    Row("RevokeKey", "keys:revoke", lambda w: _keys.RevokeKeyRequest(access_key=w.access_key)),
    Row("RevokeKey", "operators:revoke", lambda w: _keys.RevokeKeyRequest(access_key=w.operator)),
    Row("Verify", "keys:verify", lambda w: _keys.VerifyRequest(secret_key=w.secret_key)),
    Row(
        "BatchVerify",
        "keys:verify",
        lambda w: _keys.BatchVerifyRequest(requests=[_keys.VerifyRequest(secret_key=w.secret_key)]),
    ),
    Row("WatchChanges", "changes:watch", lambda w: _keys.WatchChangesRequest()),
    Row("CreateProject", "projects:create", lambda w: _projects.CreateProjectRequest()),
    Row("GetProject", "projects:read", lambda w: _projects.GetProjectRequest(project_id=w.project)),
    Row("ListProjects", "projects:read", lambda w: _projects.ListProjectsRequest()),
    Row(
        "UpdateProject",
        "projects:update",
        lambda w: _projects.UpdateProjectRequest(
            project_id=w.project, update_mask=FieldMask(paths=["display_name"])
        ),
    ),
    Row("GetUsage", "usage:read", lambda w: usage_service_pb2.GetUsageRequest()),
    Row("ReportUsage", "usage:report", lambda w: usage_service_pb2.ReportUsageRequest()),
    Row("ListEvents", "audit:read", lambda w: audit_service_pb2.ListEventsRequest()),
)

BY_SECRET: Final = frozenset({"GetProjectId"})
"""RPCs that know their caller by a secret in the request: see test_project_id."""

NOT_SERVED: Final = frozenset({"WatchChanges", "ListEvents"})
"""RPCs that this version does not serve to anybody. One that is served leaves this set."""

RIGHTS: Final = sorted({row.right for row in ROWS})
SERVED: Final = [row for row in ROWS if row.method not in NOT_SERVED]
TURNED_AWAY: Final = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)

each_served = pytest.mark.parametrize(
    "row", SERVED, ids=[f"{row.method}-{row.right}" for row in SERVED]
)


@pytest.fixture(scope="session")
def operators() -> dict[str, Caller]:
    """The operators that were made, by server and rights."""
    return {}


@pytest.fixture(scope="session")
def worlds() -> dict[str, World]:
    """The worlds that were made, by server."""
    return {}


@pytest.fixture
def world(server: ServerProcess, root: Caller, worlds: dict[str, World]) -> World:
    """What the calls are about, over this test's own connection."""
    made = worlds.get(server.address)
    if made is None:
        project = new_project(root)
        key = new_key(root, project)
        revoked, expired = (
            new_operator(root, "*:*"),
            new_operator(root, "*:*", ttl=Duration(nanos=1_000_000)),
        )
        revoke(root, access_key=revoked.key.access_key)
        end = expired.key.expire_time.ToDatetime(UTC) + timedelta(milliseconds=1)
        wait_until(lambda: datetime.now(UTC) > end)
        subject = new_operator(root, "keys:read").key.access_key
        made = World(root, project, key.key.access_key, subject, key.secret_key, revoked, expired)
        worlds[server.address] = made
    return made._replace(
        root=root,
        revoked=root.bearing(*made.revoked.metadata),
        expired=root.bearing(*made.expired.metadata),
    )


def outcome(caller: Caller, world: World, row: Row) -> Refusal | None:
    """How the call of a row ends for a caller; None if it is answered."""
    return caller.outcome(row.method, row.request(world).SerializeToString())


def with_rights(
    world: World, address: str, operators: dict[str, Caller], rights: list[str]
) -> Caller:
    """An operator with these rights, made once a server."""
    name = f"{address} {rights}"
    if name not in operators:
        operators[name] = new_operator(world.root, *rights)
    return world.root.bearing(*operators[name].metadata)


def test_every_rpc_has_a_row() -> None:
    """Who adds an RPC says here who may call it."""
    assert set(METHODS) == {row.method for row in ROWS} | BY_SECRET
    assert set(METHODS) >= NOT_SERVED


@each_served
def test_call_without_a_credential_is_unauthenticated(
    world: World, nobody: Caller, row: Row
) -> None:
    """CREDENTIAL_MISSING, before anything else of the call is looked at."""
    for refused in (outcome(nobody, world, row), nobody.outcome(row.method, NO_MESSAGE)):
        assert refused is not None
        assert ("UNAUTHENTICATED", "CREDENTIAL_MISSING") == (refused.code.name, refused.reason)


@each_served
def test_credential_that_does_not_work_is_unauthenticated(world: World, row: Row) -> None:
    """Malformed, unknown, revoked, expired, no operator's: one answer, in the same bytes."""
    token = world.root.metadata[0][1].removeprefix("Bearer ")
    refusals = [
        outcome(caller, world, row)
        for caller in (
            world.root.bearing(bearer("op_live_wrong")),
            world.root.bearing(bearer("")),
            world.root.bearing(bearer(token[:-1])),
            world.root.bearing(("authorization", token)),
            world.root.bearing(("authorization", f"Basic {token}")),
            world.root.bearing(("x-auth-token", f"Bearer {token}")),
            world.root.bearing(bearer(with_other_secret(token))),
            world.root.bearing(bearer(mended(token[:8] + world.access_key + token[28:]))),
            world.root.bearing(bearer(world.secret_key)),
            world.revoked,
            world.expired,
        )
    ]
    assert all(refusals)
    assert 1 == len({refused.status for refused in refusals if refused})
    assert refusals[0] is not None
    assert ("UNAUTHENTICATED", "CREDENTIAL_INVALID") == (refusals[0].code.name, refusals[0].reason)


@each_served
def test_more_than_one_credential_is_unauthenticated(world: World, row: Row) -> None:
    """Even twice the same, and even if one of them would do."""
    (good,) = world.root.metadata
    for second in (good, ("x-auth-token", good[1].removeprefix("Bearer ")), ("x-auth-token", "x")):
        refused = outcome(world.root.bearing(good, second), world, row)
        assert refused is not None
        assert ("UNAUTHENTICATED", "CREDENTIAL_AMBIGUOUS") == (refused.code.name, refused.reason)


@each_served
def test_operator_with_every_right_but_the_needed_one_is_refused(
    world: World, server: ServerProcess, operators: dict[str, Caller], row: Row
) -> None:
    """PERMISSION_DENIED names the right, and comes before what the request says is read."""
    others = [right for right in RIGHTS if right != row.right]
    refused = outcome(with_rights(world, server.address, operators, others), world, row)
    assert refused is not None
    assert ("PERMISSION_DENIED", "PERMISSION_MISSING") == (refused.code.name, refused.reason)
    assert {"permission": row.right} == refused.metadata
    fitting = {right for right in RIGHTS if right.partition(":")[2] == row.right.partition(":")[2]}
    neither = [right for right in RIGHTS if right not in fitting]
    garbage = with_rights(world, server.address, operators, neither).outcome(row.method, NO_MESSAGE)
    assert garbage is not None
    assert grpc.StatusCode.PERMISSION_DENIED == garbage.code


@each_served
def test_operator_with_the_needed_right_alone_is_let_in(
    world: World, server: ServerProcess, operators: dict[str, Caller], row: Row
) -> None:
    """By either header; what he sends is read then."""
    admitted = with_rights(world, server.address, operators, [row.right])
    refused = outcome(admitted, fresh(world, row), row)
    assert refused is None or refused.code not in TURNED_AWAY, refused
    garbage = admitted.outcome(row.method, NO_MESSAGE)
    assert garbage is not None
    assert ("INVALID_ARGUMENT", "INVALID_MESSAGE") == (garbage.code.name, garbage.reason)
    token = admitted.metadata[0][1].removeprefix("Bearer ")
    refused = outcome(world.root.bearing(("x-auth-token", token)), fresh(world, row), row)
    assert refused is None or refused.code not in TURNED_AWAY, refused


def fresh(world: World, row: Row) -> World:
    """The world with a key, and an operator key without rights, that the call may change."""
    if row.method not in ("UpdateKey", "RotateKey", "RevokeKey"):
        return world
    if row.right.startswith("keys:"):
        return world._replace(access_key=new_key(world.root, world.project).key.access_key)
    harmless = new_operator(world.root, row.right)
    return world._replace(operator=harmless.key.access_key)


@pytest.mark.parametrize("grant", ["*:*", "keys:*", "*:create"])
def test_wildcard_right_is_a_right(root: Caller, project: str, grant: str) -> None:
    """An operator's grants are those of any key."""
    assert new_operator(root, grant).ask(key_request(project)).secret_key


@pytest.mark.parametrize("method", sorted(NOT_SERVED))
def test_rpc_that_is_not_served_is_unimplemented(root: Caller, nobody: Caller, method: str) -> None:
    """It says so to everybody, and does nothing."""
    for caller in (root, nobody):
        refused = caller.outcome(method, b"")
        assert refused is not None
        assert ("UNIMPLEMENTED", "UNIMPLEMENTED") == (refused.code.name, refused.reason)


def test_right_is_demanded_before_the_fields_are_read(root: Caller, project: str) -> None:
    """An operator with another right is not told which of his fields are bad."""
    long = "x" * 201
    for rights, request in (
        (["operators:create"], key_request(project, purpose=long)),
        (["keys:create"], key_request("", "OPERATOR", purpose=long)),
        (["operators:read"], _keys.ListKeysRequest(page_size=-1)),
        (["keys:verify"], _keys.VerifyRequest(include_record=True, cost=-1)),
    ):
        refused = new_operator(root, *rights).refused(request)
        assert (request, "PERMISSION_MISSING") == (request, refused.reason)


def test_secret_is_judged_before_the_fields_are_read(
    root: Caller, nobody: Caller, project: str
) -> None:
    """Where the secret is the credential, a wrong one is UNAUTHENTICATED whatever else is sent."""
    token = new_key(root, project).secret_key
    for secret, code in (
        (with_other_secret(token), "UNAUTHENTICATED"),
        (token, "INVALID_ARGUMENT"),
    ):
        for request in (
            _keys.RevokeKeyRequest(secret_key=secret, note="x" * 201),
            _keys.RevokeKeyRequest(secret_key=secret, access_key="x"),
            _keys.GetProjectIdRequest(secret_key=secret, access_key="x"),
        ):
            assert (request, code) == (request, nobody.refused(request).code.name)


def test_fields_are_read_before_the_store_is_asked(root: Caller) -> None:
    """INVALID_ARGUMENT comes before NOT_FOUND."""
    refused = root.refused(key_request(absent_project(), purpose="x" * 201))
    assert ("INVALID_ARGUMENT", {"purpose"}) == (refused.code.name, refused.fields)
