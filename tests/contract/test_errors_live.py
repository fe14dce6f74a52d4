"""Each error reason over a live connection comes back as its exception."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

import grpc
import pytest
from google.rpc.status_pb2 import Status

import keyauthority
from keyauthority import ErrorReason, KeyAuthorityError
from keyauthority.convert import (
    error_from_status,
    import_set_from_proto,
    imported_key_from_proto,
)
from keyauthority.errors import REASONS
from keyauthority.v1 import key_pb2
from tests.conftest import TRANSPORTS
from tests.service.callers import ABSENT_KEY, MIB, Caller, absent_project, new_operator
from tests.service.forkserver import shared
from tests.service.imports import import_set, item, new_token

pytestmark = pytest.mark.xdist_group("errors")  # one for all


@dataclass
class World:
    """A server, and who calls it."""

    address: str
    root: Caller
    authority: keyauthority.Client
    project: str
    stack: ExitStack

    def operator(self, *rights: str, **fields: Any) -> keyauthority.Client:
        """The client of an operator with these rights."""
        made = new_operator(self.root, *rights, **fields)
        return self.client(made.metadata[0][1].removeprefix("Bearer "))

    def client(self, operator_key: str | None) -> keyauthority.Client:
        """The client of somebody."""
        made = keyauthority.Client(self.address, operator_key=operator_key)
        return self.stack.enter_context(made)

    def key(self, **fields: Any) -> keyauthority.CreatedKey:
        """A key of the project."""
        return self.authority.create_key(self.project, mode="test", kind="secret", **fields)


@pytest.fixture(scope="module", params=TRANSPORTS)
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """A server of this module's own."""
    server = shared().start(
        tmp_path_factory.mktemp("server") / "data", "--transport", request.param
    )
    with ExitStack() as stack:
        stack.callback(server.stop)
        channel = stack.enter_context(grpc.insecure_channel(server.address))
        authority = keyauthority.Client(server.address, operator_key=server.operator_key)
        stack.enter_context(authority)
        root = Caller(channel, server.metadata)
        project = authority.create_project("errors").project_id
        yield World(server.address, root, authority, project, stack)


def raw(caller: Caller, method: str, body: bytes = b"") -> None:
    """Make a call that the client cannot make; raise the client's exception for its status."""
    refused = caller.outcome(method, body)
    assert refused is not None
    raise error_from_status(Status.FromString(refused.status))


def replay(world: World, purpose: str = "", revoke: bool = False) -> None:
    """Make a key, and ask again with the same request_id."""
    request_id = str(uuid.uuid4())
    first = world.key(request_id=request_id)
    if revoke:
        world.authority.revoke_key(first.key.access_key)
    world.key(request_id=request_id, purpose=purpose)


def update_with_an_old_etag(world: World) -> None:
    """Change a key twice, for the version that was read before both."""
    made = world.key().key
    for purpose in ("first", "second"):
        world.authority.update_key(made.access_key, purpose=purpose, etag=made.etag)


def update_a_revoked_key(world: World) -> None:
    """Change a final state."""
    access_key = world.key().key.access_key
    world.authority.revoke_key(access_key)
    world.authority.update_key(access_key, purpose="late")


def import_into_another_shape(world: World) -> None:
    """Import under the name of a set with other tokens."""
    for prefix in ("one_", "two_"):
        wanted = import_set_from_proto(import_set("errors", token_prefix=prefix))
        key = imported_key_from_proto(item(new_token(prefix), world.project))
        world.authority.import_keys(wanted, [key])


REACHED: Final[dict[ErrorReason, Callable[[World], object]]] = {
    ErrorReason.CREDENTIAL_MISSING: lambda w: w.client(None).get_project(w.project),
    ErrorReason.CREDENTIAL_INVALID: lambda w: w.client("op_live_x").get_project(w.project),
    ErrorReason.CREDENTIAL_AMBIGUOUS: lambda w: raw(
        w.root.bearing(*w.root.metadata, *w.root.metadata), "ListProjects"
    ),
    ErrorReason.PERMISSION_MISSING: lambda w: w.operator("keys:read").get_project(w.project),
    ErrorReason.ADDRESS_NOT_ALLOWED: lambda w: w.operator(
        "*:*", restrictions=key_pb2.Restrictions(allowed_ips=["203.0.113.7"])
    ).get_project(w.project),
    ErrorReason.BEYOND_OWN_RIGHTS: lambda w: w.operator("operators:create").create_key(
        kind="operator", permissions=["*:*"]
    ),
    ErrorReason.INVALID_FIELD: lambda w: w.key(purpose="x" * 201),
    ErrorReason.INVALID_MESSAGE: lambda w: raw(w.root, "Verify", b"\xff"),
    ErrorReason.KEY_NOT_FOUND: lambda w: w.authority.get_key(ABSENT_KEY),
    ErrorReason.PROJECT_NOT_FOUND: lambda w: w.authority.get_project(absent_project()),
    ErrorReason.REQUEST_ID_REUSED: lambda w: replay(w, purpose="another"),
    ErrorReason.ETAG_MISMATCH: update_with_an_old_etag,
    ErrorReason.KEY_STATE: update_a_revoked_key,
    ErrorReason.REPLAY_REVOKED: lambda w: replay(w, revoke=True),
    ErrorReason.REVISION_AHEAD: lambda w: w.authority.verify("", at_least_revision=2**62),
    ErrorReason.LOG_MISMATCH: lambda w: w.authority.verify("", log_id=absent_project()),
    ErrorReason.IMPORT_SET_MISMATCH: import_into_another_shape,
    ErrorReason.MESSAGE_TOO_LARGE: lambda w: raw(w.root, "Verify", bytes(4 * MIB + 1)),
}
"""How each reason is reached."""

NOT_REACHED: Final = {
    ErrorReason.DIGEST_TAKEN: "only an item of ImportKeys has it: keys/test_import_keys.py",
    ErrorReason.STORE_CLOSED: "no store is closed before there is `copy`",
    ErrorReason.OVERLOADED: "needs more load than a server can serve: tests/faults",
    ErrorReason.DISK_LOW: "needs a file system that is full: tests/faults",
    ErrorReason.STORE_UNAVAILABLE: "needs a store that fails: tests/faults",
    ErrorReason.STALE: "needs a store that can be behind, as PostgreSQL's replicas",
    ErrorReason.CLOCK_JUMPED: "needs a clock that jumps: tests/faults",
    ErrorReason.UNIMPLEMENTED: "every call of the protos is served",
    ErrorReason.INTERNAL: "needs a fault of the server",
    ErrorReason.SHUTTING_DOWN: "needs a server that ends: tests/service/transport",
    ErrorReason.TIMED_OUT: "takes 10 s: tests/service/transport",
}
"""Reasons that no call reaches now, and why. One that can be reached moves to REACHED."""


def test_every_reason_is_reached_or_excused() -> None:
    """No row of the error table is untested."""
    assert set(REASONS) == set(REACHED) | set(NOT_REACHED)
    assert not set(REACHED) & set(NOT_REACHED)


@pytest.mark.parametrize("reason", REACHED)
def test_reason_comes_back_as_its_exception(world: World, reason: ErrorReason) -> None:
    """The client raises the table's type with the reason and a readable message."""
    with pytest.raises(KeyAuthorityError) as failed:
        REACHED[reason](world)
    assert (REASONS[reason], reason) == (type(failed.value), failed.value.reason)
    assert failed.value.message
    assert (reason is ErrorReason.INVALID_FIELD) is bool(failed.value.fields)
    assert "Traceback" not in failed.value.message


def test_error_details_reach_the_client(world: World) -> None:
    """Fields, missing right and state are attributes of the exception."""
    with pytest.raises(keyauthority.InvalidArgument) as bad:
        world.key(purpose="x" * 201, labels={"k" * MIB: ""})
    assert ["labels", "purpose"] == sorted(one.field for one in bad.value.fields)
    assert all(one.description for one in bad.value.fields)
    with pytest.raises(keyauthority.PermissionDenied) as denied:
        world.operator("keys:read").create_project("mine")
    assert {"permission": "projects:create"} == denied.value.metadata
    with pytest.raises(keyauthority.FailedPrecondition) as final:
        update_a_revoked_key(world)
    assert {"state": "KEY_STATE_REVOKED"} == final.value.metadata


def test_unreachable_server_is_unavailable(world: World) -> None:
    """An error that is not the authority's has no reason."""
    with world.client(None) as nobody, pytest.raises(keyauthority.Unauthenticated):
        nobody.get_project_id(None, "x")
    with (
        keyauthority.Client("127.0.0.1:1", timeout=2) as lost,
        pytest.raises((keyauthority.Unavailable, keyauthority.DeadlineExceeded)) as failed,
    ):
        lost.verify("x")
    assert failed.value.reason is None
