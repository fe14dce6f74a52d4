"""CreateProject, GetProject and ListProjects."""

from __future__ import annotations

import uuid

import pytest
from google.protobuf.duration_pb2 import Duration

import keyauthority
from keyauthority.v1 import key_pb2, project_service_pb2
from tests.service.callers import Caller, absent_project, new_key, new_operator, new_project
from tests.service.processes import ServerProcess

Create = project_service_pb2.CreateProjectRequest
Get = project_service_pb2.GetProjectRequest
List = project_service_pb2.ListProjectsRequest


def test_created_project_is_returned_unchanged(root: Caller) -> None:
    """The answer equals GetProject; the id is a lower-case UUID version 4."""
    limit = key_pb2.RateLimit(limit=5, period=Duration(seconds=1))
    made = root.ask(Create(display_name="Caf\u00e9", labels={"a": "b"}, rate_limit=limit))
    project = made.project
    assert ("Caf\u00e9", {"a": "b"}, limit) == (
        project.display_name,
        dict(project.labels),
        project.rate_limit,
    )
    assert (4, project.project_id) == (
        uuid.UUID(project.project_id).version,
        str(uuid.UUID(project.project_id)),
    )
    assert (False, made.revision) == (project.suspended, project.revision)
    assert project.create_time == project.update_time
    assert project == root.ask(Get(project_id=project.project_id)).project


def test_project_name_is_optional_and_not_unique(root: Caller) -> None:
    """Projects are distinguished by their ids."""
    ids = {new_project(root, name) for name in ("", "", "Shop", "Shop")}
    assert 4 == len(ids)


def test_first_project_is_named_default(root: Caller) -> None:
    """The server creates it at its first start, so it is the oldest."""
    page = root.ask(List(page_size=1))
    assert ["default"] == [project.display_name for project in page.projects]


def test_get_project_absent_and_foreign_returns_identical_bytes(root: Caller, project: str) -> None:
    """GetProject does not reveal which projects exist."""
    confined = new_operator(root, "*:*", projects=[new_project(root)])
    absent = confined.refused(Get(project_id=absent_project()))
    assert ("NOT_FOUND", "PROJECT_NOT_FOUND") == (absent.code.name, absent.reason)
    assert absent == confined.refused(Get(project_id=project))
    assert absent == root.refused(Get(project_id=absent_project()))


@pytest.mark.parametrize("page_size", [1, 2, 1000])
def test_pages_hold_each_project_once_oldest_first(root: Caller, page_size: int) -> None:
    """A confined operator gets its own projects for any page size."""
    made = [new_project(root) for _ in range(4)]
    new_project(root)
    confined = new_operator(root, "projects:read", projects=made[::-1])
    found: list[str] = []
    request = List(page_size=page_size)
    for _ in range(5):
        page = confined.ask(request)
        assert len(page.projects) <= page_size
        found += [project.project_id for project in page.projects]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert made == found


def test_project_page_token_is_bound_to_its_caller(root: Caller) -> None:
    """A token of another operator or list is INVALID_ARGUMENT."""
    new_project(root)
    token = root.ask(List(page_size=1)).next_page_token
    other = new_operator(root, "projects:read")
    for caller, text in ((other, token), (root, token[::-1]), (root, "x")):
        refused = caller.refused(List(page_token=text))
        assert ("INVALID_ARGUMENT", {"page_token"}) == (refused.code.name, refused.fields)


def test_client_lists_all_projects_over_pages(server: ServerProcess, root: Caller) -> None:
    """The library's list continues from page to page by itself."""
    made = [new_project(root) for _ in range(3)]
    with keyauthority.Client(server.address, operator_key=server.operator_key) as authority:
        found = [project.project_id for project in authority.list_projects(page_size=2)]
        assert made == [one for one in found if one in made]
        assert made[0] == authority.get_project(made[0]).project_id
        created = authority.create_key(made[0], mode="live", kind="secret")
        assert [created.key] == list(authority.list_keys(made[0], mode="live"))
        assert [] == list(authority.list_keys(made[0], mode="test"))


def test_keys_belong_to_the_project_of_their_creation(root: Caller, project: str) -> None:
    """A key of one project is not a key of another."""
    assert project == new_key(root, project).key.project_id
