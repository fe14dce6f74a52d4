"""ListEvents: actor, fields and scope of each event, and the stored denials."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from keyauthority.v1 import audit_service_pb2, key_authority_service_pb2, key_pb2
from tests.conftest import Start
from tests.contract.documents import ROOT, Reader, blocks
from tests.service.callers import (
    ABSENT_KEY,
    Caller,
    absent_project,
    new_key,
    new_operator,
    new_project,
    revoke,
)
from tests.service.forkserver import shared
from tests.service.lifecycle import rotate, update, update_project
from tests.service.processes import wait_until

ListEvents = audit_service_pb2.ListEventsRequest
PAGES_MAX = 100


def events(caller: Caller, **fields: Any) -> list[Any]:
    """All events of a list."""
    return [one for page in pages(caller, **fields) for one in page]


def pages(caller: Caller, **fields: Any) -> Iterator[list[Any]]:
    """The events of each page."""
    request = ListEvents(**fields)
    for _ in range(PAGES_MAX):
        page = caller.ask(request)
        yield list(page.events)
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token
    raise AssertionError("the list has no end")


def types(found: list[Any]) -> list[str]:
    """The type of the event, without the enum's prefix."""
    name = key_authority_service_pb2.ChangeType.Name
    return [name(one.type).removeprefix("CHANGE_TYPE_") for one in found]


def changed(event: Any) -> dict[str, tuple[str, str]]:
    """The fields of an event: before and after."""
    return {one.field: (one.before, one.after) for one in event.changed}


def test_event_names_actor_fields_and_origin(root: Caller, project: str) -> None:
    """Each changed field appears before and after, as the protos' JSON."""
    operator = new_operator(root, "*:*")
    key = new_key(operator, project, "RESTRICTED", labels={"team": "a"}).key
    update(operator, key.access_key, permissions=["orders:write"], labels={})
    limit = key_pb2.RateLimit(limit=5, period=Duration(seconds=60))
    update(operator, key.access_key, disabled=True, rate_limit=limit)
    revoked = revoke(operator, access_key=key.access_key, note="gone").key
    found = events(root, access_key=key.access_key)
    assert ["KEY_CREATED", "KEY_UPDATED", "KEY_UPDATED", "KEY_REVOKED"] == types(found)
    assert {(operator.key.access_key, "127.0.0.1", project, key.access_key)} == {
        (one.actor, one.peer, one.project_id, one.access_key) for one in found
    }
    created, narrowed, limited, ended = map(changed, found)
    assert ("", '["orders:read"]') == created["permissions"]
    assert ("", '"KEY_KIND_RESTRICTED"') == created["kind"]
    assert {
        "permissions": ('["orders:read"]', '["orders:write"]'),
        "labels": ('{"team": "a"}', ""),
    } == narrowed
    assert {"disabled": ("", "true")} == {"disabled": limited["disabled"]}
    assert {"limit": "5", "period": "60s"} == json.loads(limited["rate_limit"][1])
    time = json.dumps(revoked.revoke_time.ToJsonString())
    assert {"revoke_time": ("", time), "revoke_note": ("", '"gone"')} == ended


def test_rotation_event_is_found_by_either_key(root: Caller, project: str) -> None:
    """The event names the old key; each field is prefixed with the access key of its record."""
    old = new_key(root, project).key.access_key
    successor = rotate(root, old, 60).key.access_key
    (event,) = events(root, access_key=successor)
    assert event == events(root, access_key=old)[-1]
    assert (["KEY_ROTATED"], old) == (types([event]), event.access_key)
    fields = changed(event)
    assert ("", f'"{successor}"') == fields[f"{old}.successor_access_key"]
    assert ("", f'"{old}"') == fields[f"{successor}.predecessor_access_key"]
    assert {old, successor} == {field.partition(".")[0] for field in fields}


def test_events_are_chained_and_filtered(root: Caller, project: str) -> None:
    """Filters by project, actor and time combine; pages hold each event once with its hash."""
    operator = new_operator(root, "*:*")
    made = [new_key(caller, project) for caller in (root, operator, root)]
    update_project(operator, project, display_name="x")
    found = events(root, project_id=project, page_size=2)
    assert [one.revision for one in made] == [one.revision for one in found[1:-1]]
    assert [made[1].revision, found[-1].revision] == [
        one.revision for one in events(root, project_id=project, actor=operator.key.access_key)
    ]
    start, end = found[1].time, found[3].time
    times = events(root, project_id=project, start_time=start, end_time=end)
    assert [one for one in found if start.ToNanoseconds() <= one.time.ToNanoseconds()][:2] == times
    whole = events(root, start_time=start, page_size=1000)
    for former, event in pairwise(whole):
        assert former.revision + 1 == event.revision
        assert former.hash == event.previous_hash


def test_confined_operator_lists_events_of_its_projects_only(root: Caller, project: str) -> None:
    """Events of operators and foreign projects are hidden; foreign ids behave as absent."""
    other = new_project(root)
    mine, theirs = (new_key(root, one).key.access_key for one in (project, other))
    confined = new_operator(root, "audit:read", projects=[project])
    assert ["PROJECT_CREATED", "KEY_CREATED"] == types(events(confined))
    assert {project} == {one.project_id for one in events(confined)}
    assert [mine] == [one.access_key for one in events(confined, access_key=mine)]
    for foreign, absent in (
        (ListEvents(project_id=other), ListEvents(project_id=absent_project())),
        (ListEvents(access_key=theirs), ListEvents(access_key=ABSENT_KEY)),
        (ListEvents(access_key=confined.key.access_key), ListEvents(access_key=ABSENT_KEY)),
        (ListEvents(project_id=project, access_key=theirs), ListEvents(access_key=ABSENT_KEY)),
    ):
        refused = confined.refused(foreign)
        assert grpc.StatusCode.NOT_FOUND == refused.code
        assert refused == confined.refused(absent)


def test_event_page_token_is_bound_to_caller_and_filter(root: Caller, project: str) -> None:
    """A token of another caller, filter or list is INVALID_ARGUMENT."""
    request = ListEvents(project_id=project, page_size=1)
    new_key(root, project)
    request.page_token = root.ask(request).next_page_token
    assert 1 == len(root.ask(request).events)
    for caller, other in (
        (new_operator(root, "*:*"), request),
        (root, ListEvents(page_token=request.page_token)),
        (root, ListEvents(project_id=project, actor="x", page_token=request.page_token)),
        (
            root,
            key_authority_service_pb2.ListKeysRequest(
                project_id=project, page_token=request.page_token
            ),
        ),
    ):
        refused = caller.refused(other)
        assert ("INVALID_ARGUMENT", {"page_token"}) == (refused.code.name, refused.fields)


@pytest.mark.parametrize(
    ("field", "value"),
    [("project_id", "x"), ("access_key", "x"), ("actor", "x\n"), ("actor", "x" * 201)],
)
def test_invalid_event_filter_names_the_field(root: Caller, field: str, value: str) -> None:
    """INVALID_ARGUMENT names the invalid field."""
    fields: dict[str, Any] = {field: value}
    assert {field} == root.refused(ListEvents(**fields)).fields


def test_audit_commands_work_beside_a_running_server(
    start_server: Start, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands of docs/audit.md work during service; a bad head is one error line."""
    server, saved = start_server(), str(tmp_path / "head")
    folder = ("--data", str(data))
    with grpc.insecure_channel(server.address) as channel:
        root = Caller(channel, server.metadata)
        narrow = new_operator(root, "keys:read")
        made = new_key(root, new_project(root))
        narrow.refused(key_authority_service_pb2.RevokeKeyRequest(access_key=made.key.access_key))
        root.refused(key_authority_service_pb2.RotateKeyRequest(access_key=ABSENT_KEY))
        root.refused(key_authority_service_pb2.RotateKeyRequest(access_key="no key"))
        root.refused(key_authority_service_pb2.GetKeyRequest(access_key=ABSENT_KEY))

    def told() -> list[list[str]]:
        lines = shared().run("audit", "refused", *folder).output.splitlines()
        return [line.split(" ")[1:] for line in lines]

    wait_until(lambda: len(told()) >= 2)
    revoking, rotating = told()
    assert [*("1x", narrow.key.access_key, "127.0.0.1"), "RevokeKey"] == revoking[:4]
    assert ["permission_missing", f"access_key={made.key.access_key}"] == revoking[4:]
    assert ["RotateKey", "key_not_found", f"access_key={ABSENT_KEY}"] == rotating[3:]
    whole = shared().run("audit", "verify", *folder, "--save-head", saved)
    assert (0, "") == (whole.code, whole.log)
    head = json.loads(Path(saved).read_text(encoding="ascii"))
    assert f"log {head['log_id']} is intact up to revision {head['revision']}\n" == whole.output
    Path(saved).write_text(json.dumps(head | {"revision": 99}), encoding="ascii")
    cut = shared().run("audit", "verify", *folder, "--head", saved)
    assert (1, "keyauthority-server: the log was altered: 1 finding\n") == (cut.code, cut.log)
    assert "revision 6: the saved head is at 99: the log's tail was cut off" in cut.output
    Path(saved).write_text("{}", encoding="ascii")
    refused = shared().run("audit", "verify", *folder, "--head", saved)
    assert (2, f"keyauthority-server: {saved} holds no saved head\n") == (refused.code, refused.log)
    (tmp_path / "keyauthority-data").symlink_to(data)
    monkeypatch.chdir(tmp_path)
    page = ROOT / "docs" / "audit.md"
    reader = Reader(page, server.address)
    listed, verified, shown = (reader.run(block) for block in blocks(page))
    assert "project_created" in listed
    assert 2 == verified.count(f"log {head['log_id']} is intact")
    assert 2 == len(shown.splitlines())
