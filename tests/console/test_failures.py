"""The authority restarted, slow, unreachable; an operator key revoked while it is signed in."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from keyauthority import Client
from tests.console.people import (
    ConsoleProcess,
    Person,
    access_key_of,
    field_texts,
    hidden_fields,
    readable,
    secret_of,
    start_console,
)
from tests.service.forkserver import shared
from tests.service.processes import wait_until

pytestmark = pytest.mark.xdist_group("console")


def answer_of(send: Callable[[], httpx.Response]) -> httpx.Response:
    """Send a request until the authority is reached; return the answer."""
    answers: list[httpx.Response] = []

    def is_answered() -> bool:
        answers.append(send())
        return answers[-1].status_code != 503

    wait_until(is_answered)
    return answers[-1]


def test_console_outlives_its_authority_and_loses_nothing(tmp_path: Path) -> None:
    """Started before it, and while it restarts: a page says so, and a form keeps its input.

    The sign-in link and the form work once the authority answers again, the form once only. At
    the end the console leaves with 0, though a page waits for changes.
    """
    data = tmp_path / "data"
    first = shared().start(data)
    first.stop()
    console = start_console(tmp_path, first.address, first.operator_key)
    person, link = Person(console.url), console.link.removeprefix(console.url)
    assert person.get(link).status_code == 503
    second = shared().start(data, listen=first.address)
    assert answer_of(lambda: person.get(link)).status_code == 303
    assert person.get(link).status_code == 403

    project_id = person.new_project()
    path = f"/projects/{project_id}/keys/new"
    fields = person.form(path) | {"mode": "test", "kind": "secret", "purpose": "kept"}
    second.stop()
    answer = person.get("/projects")
    assert answer.status_code == 503
    assert "cannot be reached" in readable(answer.text)
    assert answer.headers["retry-after"]
    refused = person.post(path, fields)
    assert refused.status_code == 503
    assert field_texts(refused.text)["purpose"] == "kept"
    assert hidden_fields(refused.text)["request_id"] == fields["request_id"]

    third = shared().start(data, listen=first.address)
    created = answer_of(lambda: person.post(path, fields))
    assert created.status_code == 200
    with Client(third.address, operator_key=third.operator_key) as client:
        assert client.verify(secret_of(created)).valid
        assert ["kept"] == [key.purpose for key in client.list_keys(project_id)]
    with person.browser.stream("GET", "/changes") as changes:
        assert changes.headers["content-type"].startswith("text/event-stream")
        ended = console.stop()
    assert (ended.code, ended.output, ended.log) == (0, "", "")
    third.stop()


def test_slow_authority_is_given_up_with_a_page(tmp_path: Path) -> None:
    """One that accepts connections and never answers: each page within the timeout."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        console = start_console(tmp_path, address, None, "--sign-in", "--timeout", "1s")
        try:
            person = Person(console.url)
            key = "op_live_KA0123456789ABCDEFGH_fvoEdQeeVc0mZ71i5JuiKNTDvWO8cAduGHnTmvX86Qo1NFkcX"
            answer = person.submit("/sign-in", operator_key=key)
            assert answer.status_code == 503
            assert key not in answer.text
            assert person.get("/sign-in").status_code == 200
        finally:
            console.stop()


def test_revoked_operator_key_is_signed_out_with_a_page(
    person: Person, console: ConsoleProcess, client: Client, project_id: str
) -> None:
    """At the next page; the form that was being filled in is not carried out."""
    created = person.submit("/operators", purpose="leaver", permissions="*:*")
    leaver = Person(console.url)
    leaver.sign_in(secret_of(created))
    path = f"/projects/{project_id}/keys/new"
    fields = leaver.form(path) | {"mode": "test", "kind": "secret"}
    client.revoke_key(access_key_of(created))
    answer = leaver.post(path, fields)
    assert answer.status_code == 401
    assert "no longer accepts the operator key" in readable(answer.text)
    assert leaver.get("/projects").headers["location"] == "/sign-in"
    assert leaver.post(path, fields).status_code == 403
    assert [] == list(client.list_keys(project_id))
