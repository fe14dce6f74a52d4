"""WatchChanges: delivered changes, their audience, and the starting point."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, timedelta
from itertools import pairwise
from typing import Final

import grpc
import pytest

from keyauthority.v1 import key_authority_service_pb2 as pb
from keyauthority.v1 import key_pb2
from tests.service.callers import (
    Caller,
    absent_project,
    new_key,
    new_operator,
    new_project,
    revoke,
)
from tests.service.lifecycle import from_now, rotate, state, update, update_project
from tests.service.processes import ServerProcess
from tests.service.watches import Watch, following, watching

WRITERS = 4
KEYS_EACH = 6
MORE_THAN_A_PAGE = 130
HEARTBEAT = timedelta(milliseconds=500)


def new_keys(root: Caller, project: str, number: int) -> list[str]:
    """Make some keys; return their access keys."""
    return [new_key(root, project).key.access_key for _ in range(number)]


def all_keys(root: Caller, project: str) -> dict[str, key_pb2.Key]:
    """The keys of a project as ListKeys has them."""
    request = pb.ListKeysRequest(project_id=project, page_size=1000)
    return {key.access_key: key for key in root.ask(request).keys}


def told(key: key_pb2.Key) -> key_pb2.Key:
    """The record without the fields that a change omits."""
    copy = key_pb2.Key()
    copy.CopyFrom(key)
    for field in ("created_by", "created_from", "revoke_note", "last_used_time"):
        copy.ClearField(field)
    return copy


def test_changes_are_delivered_as_committed_without_the_actor(root: Caller, project: str) -> None:
    """Records are shown as after the change; actor, address and note are omitted."""
    with following(root, project_id=project) as watch:
        key = new_key(root, project, purpose="first").key
        update(root, key.access_key, purpose="second")
        successor = rotate(root, key.access_key).key
        update_project(root, project, suspended=True)
        last = revoke(root, access_key=key.access_key, note="a note")
        end = watch.checkpoint(last.revision)
    names = ["KEY_CREATED", "KEY_UPDATED", "KEY_ROTATED", "PROJECT_UPDATED", "KEY_REVOKED"]
    assert names == watch.types()
    created, updated, rotated, suspended, revoked = watch.changes
    assert ["first", "second"] == [one.keys[0].purpose for one in (created, updated)]
    assert [key.access_key, successor.access_key] == [one.access_key for one in rotated.keys]
    assert suspended.project.suspended
    assert "REVOKED" == state(revoked.keys[0])
    assert (last.revision, last.log_id) == (revoked.revision, end.log_id)
    for change in watch.changes:
        assert project == change.project_id
        assert all(told(one) == one for one in change.keys)


def test_changes_after_from_revision_come_first(root: Caller, project: str) -> None:
    """Changes after from_revision are read from the log, and no earlier ones."""
    before = new_key(root, project)
    after = new_keys(root, project, 3)
    with watching(root, project_id=project, from_revision=before.revision) as watch:
        watch.checkpoint()
        later = new_key(root, project)
        watch.checkpoint(later.revision)
    names = [one.keys[0].access_key for one in watch.changes]
    assert [*after, later.key.access_key] == names


def test_start_after_the_head_is_refused(root: Caller, project: str) -> None:
    """A revision that the store has not reached is FAILED_PRECONDITION."""
    with watching(root, from_revision=2**60) as watch:
        refused = watch.refused()
    assert (grpc.StatusCode.FAILED_PRECONDITION, "REVISION_AHEAD") == refused[:2]


def test_start_in_another_log_sends_resync(root: Caller, project: str) -> None:
    """It is the only message, and the stream ends with OK."""
    with watching(root, from_revision=1, log_id=absent_project()) as watch:
        updates = list(watch.call)
    assert [(True, False)] == [(one.resync, one.checkpoint) for one in updates]


def test_snapshot_holds_every_record_then_changes_follow(root: Caller, project: str) -> None:
    """It equals ListKeys, also beyond a page, and ends with the first checkpoint."""
    names = new_keys(root, project, MORE_THAN_A_PAGE)
    revoke(root, access_key=names[0], note="a note")
    with watching(root, project_id=project, snapshot=True) as watch:
        watch.checkpoint()
        records = {key.access_key: key for one in watch.changes for key in one.keys}
        assert {name: told(key) for name, key in all_keys(root, project).items()} == records
        assert {"PROJECT_CREATED", "KEY_CREATED"} == set(watch.types())
        assert project == watch.changes[0].project.project_id
        later = revoke(root, access_key=names[1])
        watch.checkpoint(later.revision)
    assert names[1] == watch.changes[-1].keys[0].access_key


def test_checkpoints_are_complete_under_concurrent_writes(
    root: Caller, project: str, server: ServerProcess
) -> None:
    """With writers in all workers no change is missing, repeated or out of order."""

    def write() -> None:
        pool = (("grpc.use_local_subchannel_pool", 1),)
        with grpc.insecure_channel(server.address, pool) as channel:
            for name in new_keys(Caller(channel, root.metadata), project, KEYS_EACH):
                revoke(Caller(channel, root.metadata), access_key=name)

    with following(root) as watch:
        start = len(watch.changes)
        writers = [threading.Thread(target=write) for _ in range(WRITERS)]
        for one in writers:
            one.start()
        for one in writers:
            one.join()
        last = new_key(root, project)
        watch.checkpoint(last.revision)
    revisions = [one.revision for one in watch.changes[start:]]
    assert list(range(revisions[0], revisions[0] + len(revisions))) == revisions
    newest = {
        key.access_key: key
        for one in watch.changes
        for key in one.keys
        if one.project_id == project
    }
    assert {name: told(key) for name, key in all_keys(root, project).items()} == newest
    assert 2 * WRITERS * KEYS_EACH + 1 == sum(one.project_id == project for one in watch.changes)


def test_heartbeats_come_without_changes(root: Caller, project: str) -> None:
    """One comes every 500 ms, bar a delay of a busy machine, and carries the time."""
    with following(root, project_id=project) as watch:
        beats = [watch.checkpoint() for _ in range(4)]
    assert not watch.changes
    times = [one.server_time.ToDatetime(UTC) for one in beats]
    gaps = sorted(b - a for a, b in pairwise(times))
    assert timedelta() < gaps[0]
    assert HEARTBEAT >= gaps[1]
    assert all(timedelta() <= one.lag.ToTimedelta() < HEARTBEAT for one in beats[:1])


def _expire(root: Caller, name: str) -> None:
    update(root, name, expire_time=from_now(timedelta(seconds=0.3)))


ENDS: Final[dict[str, tuple[Callable[[Caller, str], object], str]]] = {
    "revoked": (lambda root, name: revoke(root, access_key=name), "UNAUTHENTICATED"),
    "disabled": (lambda root, name: update(root, name, disabled=True), "UNAUTHENTICATED"),
    "expired": (_expire, "UNAUTHENTICATED"),
    "narrowed": (
        lambda root, name: update(root, name, permissions=["keys:read"]),
        "PERMISSION_DENIED",
    ),
}


@pytest.mark.parametrize("how", ENDS)
def test_lost_right_ends_the_stream(root: Caller, project: str, how: str) -> None:
    """The caller is authorized at each message and does not see even its own end."""
    end, code = ENDS[how]
    operator = new_operator(root, "changes:watch")
    with following(operator) as watch:
        end(root, operator.key.access_key)
        refused = watch.refused()
    assert code == refused.code.name
    if how != "expired":
        assert operator.key.access_key not in {
            key.access_key for one in watch.changes for key in one.keys
        }


def test_confined_operator_watches_its_projects_only(root: Caller, project: str) -> None:
    """No foreign and no operator keys, in snapshot or stream; revisions have gaps."""
    other = new_project(root)
    operator = new_operator(root, "changes:watch", projects=[project])
    mine = new_keys(root, project, 2)
    new_keys(root, other, 1)
    with watching(operator, snapshot=True) as watch:
        watch.checkpoint()
        new_operator(root, "keys:read")
        new_keys(root, other, 1)
        last = new_key(root, project)
        end = watch.checkpoint(last.revision)
    assert {project} == {one.project_id for one in watch.changes}
    names = [key.access_key for one in watch.changes for key in one.keys]
    assert [*mine, last.key.access_key] == names
    assert last.revision == end.revision


def test_unconfined_operator_watches_operator_keys(root: Caller, project: str) -> None:
    """Changes of operator keys have no project."""
    with following(root) as watch:
        operator = new_operator(root, "keys:read")
        watch.checkpoint(operator.key.revision)
    change = next(one for one in watch.changes if one.revision == operator.key.revision)
    assert ("", operator.key.access_key) == (change.project_id, change.keys[0].access_key)


def test_watch_of_absent_and_foreign_project_returns_identical_bytes(
    root: Caller, project: str
) -> None:
    """NOT_FOUND does not reveal which projects exist."""
    operator = new_operator(root, "changes:watch", projects=[project])
    refusals = []
    for asked in (new_project(root), absent_project()):
        with watching(operator, project_id=asked) as watch:
            refusals.append(watch.refused())
    assert grpc.StatusCode.NOT_FOUND == refusals[0].code
    assert refusals[0] == refusals[1]


def test_watch_authorizes_before_it_validates(root: Caller, nobody: Caller, project: str) -> None:
    """Only a caller with the right learns that its message is invalid."""
    weak = new_operator(root, "keys:read")
    for caller, code in (
        (nobody, "UNAUTHENTICATED"),
        (weak, "PERMISSION_DENIED"),
        (root, "INVALID_ARGUMENT"),
    ):
        assert code == Watch(caller, b"\xff\xff").refused().code.name
    with watching(root, project_id="x", from_revision=-1) as watch:
        assert {"project_id", "from_revision"} == watch.refused().fields


def test_watch_checks_the_callers_address(root: Caller, project: str) -> None:
    """Allowed addresses are compared with the peer, not with metadata."""

    def operator(network: str) -> Caller:
        restrictions = key_pb2.Restrictions(allowed_ips=[network])
        return new_operator(root, "changes:watch", restrictions=restrictions)

    with following(operator("127.0.0.0/8")):
        pass
    far = operator("10.0.0.0/8")
    claims = [("x-forwarded-for", "10.0.0.1"), ("forwarded", "for=10.0.0.1")]
    for caller in (far, far.bearing(*far.metadata, *claims)):
        with watching(caller) as watch:
            refused = watch.refused()
        assert (grpc.StatusCode.PERMISSION_DENIED, "ADDRESS_NOT_ALLOWED") == refused[:2]
