"""The secret of a new key: in one answer, until a browser has shown it, and nowhere else."""

from __future__ import annotations

import pytest

from keyauthority import Client
from tests.console.people import (
    ConsoleProcess,
    Person,
    access_key_of,
    mark_of,
    readable,
    revision,
    secret_of,
)
from tests.service.processes import ServerProcess

pytestmark = pytest.mark.xdist_group("console")


def test_lost_answer_is_repeated_until_the_secret_was_shown(
    person: Person, client: Client, project_id: str
) -> None:
    """The same form makes one key; once the page's image was loaded it shows no secret."""
    path = f"/projects/{project_id}/keys/new"
    fields = person.form(path) | {"mode": "test", "kind": "secret", "purpose": "once"}
    first = person.post(path, fields)
    again = person.post(path, fields)
    assert secret_of(first) == secret_of(again)
    assert first.headers["cache-control"] == "no-store"

    before = revision(client, project_id)
    image = person.get(mark_of(again))
    assert image.headers["content-type"] == "image/gif"
    for _ in range(2):
        gone = person.post(path, fields)
        assert gone.status_code == 410
        assert "Already shown" in readable(gone.text)
        assert secret_of(first) not in gone.text
    assert revision(client, project_id) == before
    assert [key.purpose for key in client.list_keys(project_id)] == ["once"]


def test_first_image_marks_a_repeated_page_as_well(person: Person, project_id: str) -> None:
    """Each page has an image of its own, and either one ends the repetition."""
    path = f"/projects/{project_id}/keys/new"
    fields = person.form(path) | {"mode": "live", "kind": "secret"}
    first = person.post(path, fields)
    person.post(path, fields)
    person.get(mark_of(first))
    assert person.post(path, fields).status_code == 410


def test_shown_secret_stays_hidden_in_another_session(
    person: Person, console: ConsoleProcess, console_server: ServerProcess, project_id: str
) -> None:
    """A second sign-in with the same operator key cannot fetch it by the request_id."""
    path = f"/projects/{project_id}/keys/new"
    fields = person.form(path) | {"mode": "test", "kind": "secret"}
    person.get(mark_of(person.post(path, fields)))
    other = Person(console.url)
    other.sign_in(console_server.operator_key)
    for request_id in (fields["request_id"], fields["request_id"].upper()):
        own = fields | other.form(path) | {"request_id": request_id}
        assert other.post(path, own).status_code == 410


def test_secret_is_on_no_other_page(
    person: Person, console: ConsoleProcess, console_server: ServerProcess, project_id: str
) -> None:
    """Not on the pages of the key, in the log of the console or in its sign-in page."""
    answer = person.new_key(project_id, purpose="quiet")
    secret, access_key = secret_of(answer), access_key_of(answer)
    assert answer.text.count(secret) == 1
    assert console_server.operator_key not in answer.text
    pages = (
        *(f"/projects/{project_id}", f"/keys/{access_key}", f"/keys/{access_key}/edit"),
        *(
            f"/keys/{access_key}/rotate",
            "/audit",
            "/usage",
            "/advisories",
            "/operators",
            "/sign-in",
            "/projects",
        ),
    )
    for path in pages:
        text = person.get(path).text
        assert secret not in text
        assert secret[29:] not in text
        assert console_server.operator_key not in text
    assert console.log.read_text(encoding="utf-8") == ""


def test_rotation_shows_the_new_secret_once(person: Person, project_id: str) -> None:
    """As a creation does."""
    access_key = access_key_of(person.new_key(project_id))
    path = f"/keys/{access_key}/rotate"
    fields = person.form(path) | {"overlap": "0s"}
    first = person.post(path, fields)
    assert secret_of(first) == secret_of(person.post(path, fields))
    person.get(mark_of(first))
    assert person.post(path, fields).status_code == 410


def test_publishable_key_stays_on_the_page_of_the_key(person: Person, project_id: str) -> None:
    """It is public, so it may be read again."""
    answer = person.new_key(project_id, kind="publishable")
    assert secret_of(answer).startswith("pk_test_")
    assert secret_of(answer) in person.page(f"/keys/{access_key_of(answer)}")


def test_secret_of_a_revoked_key_is_not_repeated(
    person: Person, client: Client, project_id: str
) -> None:
    """The authority has forgotten it by then."""
    path = f"/projects/{project_id}/keys/new"
    fields = person.form(path) | {"mode": "test", "kind": "secret"}
    answer = person.post(path, fields)
    client.revoke_key(access_key_of(answer))
    again = person.post(path, fields)
    assert again.status_code == 409
    assert secret_of(answer) not in again.text
