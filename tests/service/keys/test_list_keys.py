"""ListKeys: complete pages, filters, and page tokens bound to their list."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from keyauthority.v1 import key_authority_service_pb2, key_pb2
from keyauthority.v1.audit_service_pb2 import ListEventsRequest
from keyauthority.v1.usage_service_pb2 import GetUsageRequest
from tests.service.callers import (
    Caller,
    absent_project,
    get_key,
    new_key,
    new_operator,
    new_project,
    revoke,
    verify,
)
from tests.service.processes import wait_until

Filter = key_authority_service_pb2.KeyFilter
PAGES_MAX = 100


def pages(caller: Caller, project_id: str, **fields: Any) -> Iterator[list[str]]:
    """The access keys of each page of a list."""
    request = key_authority_service_pb2.ListKeysRequest(project_id=project_id, **fields)
    for _ in range(PAGES_MAX):
        page = caller.ask(request)
        yield [key.access_key for key in page.keys]
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token
    raise AssertionError("the list has no end")


def listed(caller: Caller, project_id: str, **fields: Any) -> list[str]:
    """All access keys of a list."""
    return [one for page in pages(caller, project_id, **fields) for one in page]


@pytest.mark.parametrize("page_size", [1, 2, 3, 7, 1000, 0])
def test_pages_hold_every_key_once_oldest_first(root: Caller, project: str, page_size: int) -> None:
    """The list is the same for any page size."""
    made = [new_key(root, project).key.access_key for _ in range(7)]
    found = list(pages(root, project, page_size=page_size))
    assert made == [one for page in found for one in page]
    assert all(len(page) <= (page_size or 100) for page in found)


def test_page_of_large_keys_fits_the_client_message_limit(root: Caller, project: str) -> None:
    """A page ends before it exceeds 4 MiB, the default limit of gRPC clients."""
    permissions = [f"r{number}:{'a' * 400}" for number in range(100)]
    made = [
        new_key(root, project, "RESTRICTED", permissions=permissions).key.access_key
        for _ in range(120)
    ]
    assert made == listed(root, project, page_size=1000)


def test_key_created_between_two_pages_is_listed_last(root: Caller, project: str) -> None:
    """A list in progress misses no key and repeats none."""
    made = [new_key(root, project).key.access_key for _ in range(3)]
    found = pages(root, project, page_size=2)
    first = next(found)
    made.append(new_key(root, project).key.access_key)
    assert made == first + [one for page in found for one in page]


def test_list_filters_combine(root: Caller, project: str) -> None:
    """Mode, kind, labels and expiry each narrow the list."""
    live = key_pb2.KEY_MODE_LIVE
    a = new_key(root, project, labels={"team": "a", "env": "x"}).key.access_key
    b = new_key(root, project, mode=live, labels={"team": "a"}).key.access_key
    c = new_key(root, project, "RESTRICTED", mode=live).key.access_key
    d = new_key(root, project, expire_time=Timestamp(seconds=4_000_000_000)).key.access_key
    for wanted, expected in (
        (Filter(), [a, b, c, d]),
        (Filter(mode=live), [b, c]),
        (Filter(mode=live, kind=key_pb2.KEY_KIND_SECRET), [b]),
        (Filter(kind=key_pb2.KEY_KIND_RESTRICTED), [c]),
        (Filter(kind=key_pb2.KEY_KIND_OPERATOR), []),
        (Filter(labels={"team": "a"}), [a, b]),
        (Filter(labels={"team": "a", "env": "x"}), [a]),
        (Filter(labels={"team": "b"}), []),
        (Filter(expires_before=Timestamp(seconds=4_000_000_000)), []),
        (Filter(expires_before=Timestamp(seconds=4_000_000_000, nanos=1_000)), [d]),
        (Filter(never_used=True), [a, b, c, d]),
        (Filter(used_before=Timestamp(seconds=4_000_000_000)), []),
    ):
        assert (wanted, expected) == (wanted, listed(root, project, filter=wanted))


def test_state_filter_is_evaluated_at_the_call(root: Caller, project: str) -> None:
    """ACTIVE, EXPIRED and REVOKED are decided by the time of the call."""
    active = new_key(root, project).key.access_key
    brief = new_key(root, project, ttl=Duration(nanos=1_000_000)).key.access_key
    gone = new_key(root, project).key.access_key
    revoke(root, access_key=gone)
    wait_until(lambda: key_pb2.KEY_STATE_EXPIRED == get_key(root, brief).state, seconds=5)
    for state, expected in (
        (key_pb2.KEY_STATE_ACTIVE, [active]),
        (key_pb2.KEY_STATE_EXPIRED, [brief]),
        (key_pb2.KEY_STATE_REVOKED, [gone]),
        (key_pb2.KEY_STATE_DISABLED, []),
    ):
        assert expected == listed(root, project, filter=Filter(state=state))


def test_project_list_holds_its_own_keys_only(root: Caller, project: str) -> None:
    """Lists of another project and of all projects keep them apart."""
    other = new_project(root)
    mine, theirs = new_key(root, project).key.access_key, new_key(root, other).key.access_key
    assert ([mine], [theirs]) == (listed(root, project), listed(root, other))


def test_confined_operator_lists_its_projects_only(root: Caller, project: str) -> None:
    """Without project_id it gets its own keys; a foreign id equals an absent one."""
    second, foreign = new_project(root), new_project(root)
    made = [new_key(root, one).key.access_key for one in (project, foreign, second, project)]
    confined = new_operator(root, "keys:read", projects=[project, second])
    assert [made[0], made[2], made[3]] == sorted(listed(confined, ""), key=made.index)
    assert [made[2]] == listed(confined, second)
    request = key_authority_service_pb2.ListKeysRequest
    refused = confined.refused(request(project_id=foreign))
    assert (grpc.StatusCode.NOT_FOUND, "PROJECT_NOT_FOUND") == (refused.code, refused.reason)
    assert refused == confined.refused(request(project_id=absent_project()))


def test_page_token_is_bound_to_caller_and_filter(root: Caller, project: str) -> None:
    """Another operator, project, filter or character is INVALID_ARGUMENT."""
    for _ in range(3):
        new_key(root, project)
    request = key_authority_service_pb2.ListKeysRequest(project_id=project, page_size=1)
    token = root.ask(request).next_page_token
    request.page_token = token
    assert 1 == len(root.ask(request).keys)
    altered = token[:4] + ("A" if token[4] != "A" else "B") + token[5:]
    asked = key_authority_service_pb2.ListKeysRequest
    test = Filter(mode=key_pb2.KEY_MODE_TEST)
    for caller, other in (
        (new_operator(root, "*:*"), request),
        (root, asked(page_token=token)),
        (root, asked(project_id=new_project(root), page_token=token)),
        (root, asked(project_id=project, filter=test, page_token=token)),
        (root, asked(project_id=project, page_token=altered)),
        (root, asked(project_id=project, page_token=token[:-4])),
        (root, asked(project_id=project, page_token=token + token)),
    ):
        refused = caller.refused(other)
        assert ("INVALID_ARGUMENT", {"page_token"}) == (refused.code.name, refused.fields)


def test_page_token_is_bound_to_its_list_for_any_page_size(root: Caller, project: str) -> None:
    """No other list accepts it, even for a request with the same bytes."""
    for _ in range(3):
        verify(root, new_key(root, project).secret_key)
    asked: dict[str, Any] = {"project_id": project, "page_size": 1}
    usage = GetUsageRequest(**asked)
    wait_until(lambda: root.ask(usage).next_page_token != "")
    lists: list[Any] = [
        key_authority_service_pb2.ListKeysRequest(**asked),
        ListEventsRequest(**asked),
        usage,
    ]
    tokens = [root.ask(request).next_page_token for request in lists]
    for request, own in zip(lists, tokens, strict=True):
        for token in tokens:
            request.page_token, request.page_size = token, 2
            if token == own:
                root.ask(request)
            else:
                refused = root.refused(request)
                assert ("INVALID_ARGUMENT", {"page_token"}) == (refused.code.name, refused.fields)
