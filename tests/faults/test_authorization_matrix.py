"""Authorization of every RPC for every kind of caller, generated from the descriptors.

An RPC without a row fails. The answer to an authorized call is tested elsewhere:
here it is neither UNAUTHENTICATED nor PERMISSION_DENIED.
"""

from __future__ import annotations

from typing import Any, Final
from unittest.mock import Mock

import grpc
import pytest
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool

from keyauthority.v1 import audit_service_pb2, key_authority_service_pb2
from keyauthority_server import rpc
from keyauthority_server.rpc.policy import POLICY
from tests.conftest import each_transport, grpc_and_http
from tests.faults.matrix import (
    NO_MESSAGE,
    RIGHTS,
    ROWS,
    STREAMS,
    WITHOUT_RIGHT,
    Row,
    World,
    bad_credentials,
    fresh,
    new_world,
    outcome,
    without_row,
)
from tests.service.callers import (
    METHODS,
    Caller,
    absent_project,
    bearer,
    key_request,
    mended,
    new_key,
    new_operator,
    refusal,
    revoke,
    with_other_secret,
)
from tests.service.lifecycle import update
from tests.service.processes import ServerProcess

TURNED_AWAY: Final = ("UNAUTHENTICATED", "PERMISSION_DENIED")

_keys = key_authority_service_pb2


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
    """The records of the calls, over this test's own connection."""
    if server.address not in worlds:
        worlds[server.address] = new_world(root)
    return worlds[server.address]._replace(root=root)


@pytest.fixture(params=ROWS, ids=str)
def row(request: pytest.FixtureRequest) -> Row:
    """Each row of the matrix."""
    one: Row = request.param
    return one


def with_rights(
    world: World, address: str, operators: dict[str, Caller], rights: list[str]
) -> Caller:
    """An operator with these rights, made once a server."""
    name = f"{address} {rights}"
    if name not in operators:
        operators[name] = new_operator(world.root, *rights)
    return world.root.bearing(*operators[name].metadata)


def test_every_rpc_has_a_row_in_the_matrix() -> None:
    """A new RPC needs a row that names the callers it admits."""
    assert set() == without_row(METHODS)
    assert {row.method for row in ROWS} | WITHOUT_RIGHT == set(METHODS)


def loaded_by(file: FileDescriptor) -> list[FileDescriptor]:
    """A file behind all that it imports."""
    before = [one for needed in file.dependencies for one in loaded_by(needed)]
    return [*dict.fromkeys(before), file]


def test_added_rpc_without_a_row_is_reported() -> None:
    """A new method of a service without a row in the matrix is found."""
    pool, proto = DescriptorPool(), FileDescriptorProto()
    for file in loaded_by(audit_service_pb2.DESCRIPTOR):
        pool.AddSerializedFile(file.serialized_pb)
    audit_service_pb2.DESCRIPTOR.CopyToProto(proto)
    proto.name, proto.package = "added.proto", "added"
    listing = proto.service[0].method[0]
    proto.service[0].method.add(
        name="DropEvents", input_type=listing.input_type, output_type=listing.output_type
    )
    del proto.message_type[:]
    proto.dependency.append(audit_service_pb2.DESCRIPTOR.name)
    pool.AddSerializedFile(proto.SerializeToString())
    service: Any = pool.FindServiceByName("added.AuditService")
    assert {"DropEvents"} == without_row([*METHODS, *(one.name for one in service.methods)])


@pytest.mark.parametrize("method", sorted(METHODS))
def test_server_with_an_rpc_without_a_policy_does_not_start(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gap in the policy prevents the start."""
    assert rpc.services(Mock(log_id=""), None)
    monkeypatch.delitem(POLICY, METHODS[method].full_name)
    with pytest.raises(KeyError, match=method):
        rpc.services(Mock(log_id=""), None)


@each_transport
def test_call_without_a_credential_is_unauthenticated(
    world: World, nobody: Caller, row: Row
) -> None:
    """CREDENTIAL_MISSING precedes every other check of the call."""
    for refused in (outcome(nobody, world, row), nobody.outcome(row.method, NO_MESSAGE)):
        assert refused is not None
        assert ("UNAUTHENTICATED", "CREDENTIAL_MISSING") == (refused.code.name, refused.reason)


@each_transport
def test_invalid_credential_returns_identical_errors(world: World, row: Row) -> None:
    """Malformed, unknown, revoked, expired, disabled and project keys get one text."""
    token = world.root.metadata[0][1].removeprefix("Bearer ")
    bad = {
        **bad_credentials(world, token),
        "other secret": (bearer(with_other_secret(token)),),
        "other access key": (bearer(mended(token[:8] + world.access_key + token[28:])),),
    }
    refusals = {
        why: outcome(world.root.bearing(*metadata), world, row) for why, metadata in bad.items()
    }
    told = {
        why: refused and (refused.code.name, refused.reason) for why, refused in refusals.items()
    }
    assert dict.fromkeys(bad, ("UNAUTHENTICATED", "CREDENTIAL_INVALID")) == told
    assert 1 == len({refused.status for refused in refusals.values() if refused})


@each_transport
def test_several_credentials_are_unauthenticated(world: World, row: Row) -> None:
    """Repeating one credential is refused, even if one of them is valid."""
    (good,) = world.root.metadata
    for second in (good, ("x-auth-token", good[1].removeprefix("Bearer ")), ("x-auth-token", "x")):
        refused = outcome(world.root.bearing(good, second), world, row)
        assert refused is not None
        assert ("UNAUTHENTICATED", "CREDENTIAL_AMBIGUOUS") == (refused.code.name, refused.reason)


@grpc_and_http
def test_operator_without_the_needed_right_is_denied(
    world: World, server: ServerProcess, operators: dict[str, Caller], row: Row
) -> None:
    """PERMISSION_DENIED names the right and precedes validation of the request."""
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


@grpc_and_http
def test_operator_with_only_the_needed_right_is_admitted(
    world: World, server: ServerProcess, operators: dict[str, Caller], row: Row
) -> None:
    """By either header; its request is validated then."""
    admitted = with_rights(world, server.address, operators, [row.right])
    refused = outcome(admitted, fresh(world, row), row)
    assert refused is None or refused.code.name not in TURNED_AWAY, refused
    garbage = admitted.outcome(row.method, NO_MESSAGE)
    assert garbage is not None
    assert ("INVALID_ARGUMENT", "INVALID_MESSAGE") == (garbage.code.name, garbage.reason)
    token = admitted.metadata[0][1].removeprefix("Bearer ")
    refused = outcome(world.root.bearing(("x-auth-token", token)), fresh(world, row), row)
    assert refused is None or refused.code.name not in TURNED_AWAY, refused


@grpc_and_http
def test_operator_of_another_project_is_denied_or_sees_nothing(world: World, row: Row) -> None:
    """All rights in one project give none in another; lists show its own only."""
    elsewhere = world.root.bearing(*world.elsewhere)
    if row.elsewhere == "OK":
        answer = elsewhere.send(row.method, row.request(world).SerializeToString())
        for foreign in (world.project, world.access_key, world.operator):
            assert foreign.encode() not in answer
    else:
        refused = outcome(elsewhere, world, row)
        assert row.elsewhere == (refused.code.name if refused else "OK")


@each_transport
@pytest.mark.parametrize("method", sorted(STREAMS))
@pytest.mark.parametrize("end", ["revoked", "disabled", "expired", "narrowed"])
def test_stream_ends_when_its_right_is_lost(root: Caller, method: str, end: str) -> None:
    """A running stream is authorized again."""
    (right,) = (row.right for row in ROWS if row.method == method)
    operator = new_operator(root, right)
    opened: Any = root.channel.unary_stream(
        f"/{METHODS[method].containing_service.full_name}/{method}"
    )
    stream = opened(b"", metadata=operator.metadata, timeout=30)
    next(stream)
    access_key = operator.key.access_key
    if end == "revoked":
        revoke(root, access_key=access_key)
    elif end == "disabled":
        update(root, access_key, disabled=True)
    elif end == "expired":
        update(root, access_key, expire_time=operator.key.create_time)
    else:
        update(root, access_key, permissions=["keys:read"])
    with pytest.raises(grpc.RpcError) as failed:
        for _ in stream:
            pass
    expected = "PERMISSION_DENIED" if end == "narrowed" else "UNAUTHENTICATED"
    assert expected == refusal(failed.value).code.name


@grpc_and_http
@pytest.mark.parametrize("grant", ["*:*", "keys:*", "*:create"])
def test_wildcard_grant_admits_like_the_right(root: Caller, project: str, grant: str) -> None:
    """An operator's grants follow the rules of any key."""
    assert new_operator(root, grant).ask(key_request(project)).secret_key


@grpc_and_http
def test_right_is_checked_before_the_fields(root: Caller, project: str) -> None:
    """An operator with another right does not learn which fields are invalid."""
    long = "x" * 201
    for rights, request in (
        (["operators:create"], key_request(project, purpose=long)),
        (["keys:create"], key_request("", "OPERATOR", purpose=long)),
        (["operators:read"], _keys.ListKeysRequest(page_size=-1)),
        (["keys:verify"], _keys.VerifyRequest(include_record=True, cost=-1)),
    ):
        refused = new_operator(root, *rights).refused(request)
        assert (request, "PERMISSION_MISSING") == (request, refused.reason)


@grpc_and_http
def test_secret_is_checked_before_the_fields(root: Caller, nobody: Caller, project: str) -> None:
    """A wrong secret as the credential is UNAUTHENTICATED for any fields."""
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


@grpc_and_http
def test_fields_are_checked_before_the_store_is_read(root: Caller) -> None:
    """INVALID_ARGUMENT precedes NOT_FOUND."""
    refused = root.refused(key_request(absent_project(), purpose="x" * 201))
    assert ("INVALID_ARGUMENT", {"purpose"}) == (refused.code.name, refused.fields)
