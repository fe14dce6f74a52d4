"""Attacks on the console from other sites, other names and other sessions; hostile records."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Final

import httpx
import pytest

from keyauthority import Client
from tests.console.people import (
    ConsoleProcess,
    Person,
    access_key_of,
    hidden_fields,
    mark_of,
    readable,
    revision,
)
from tests.service.processes import ServerProcess

pytestmark = pytest.mark.xdist_group("console")

HOSTILE: Final = " ".join(
    (
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "'-alert(1)-'",
        "{{7*7}}{% raw %}",
        "</textarea></title><svg onload=alert(1)>",
        "&lt;b&gt;",
        "\u202egnp.exe",
    )
)
"""A text that ends every place in which a page might put it: at most 200 characters."""
HOSTILE_LABELS: Final = {HOSTILE[:63]: HOSTILE, HOSTILE[-63:]: "javascript:alert(1)"}


class Tags(HTMLParser):
    """Scripts, handlers and links of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts = 0
        self.handlers: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note one tag."""
        self.scripts += tag == "script"
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        self.links += [text or "" for name, text in attrs if name in ("href", "src", "action")]


@pytest.fixture
def access_key(person: Person, project_id: str) -> str:
    """A key of the test's own."""
    return access_key_of(person.new_key(project_id))


def posts(project_id: str, access_key: str) -> dict[str, dict[str, str]]:
    """Return every path that takes a form, with fields that it would accept."""
    project, key = f"/projects/{project_id}", f"/keys/{access_key}"
    return {
        "/projects": {"display_name": "Forged"},
        f"{project}/keys/new": {"mode": "test", "kind": "secret"},
        f"{project}/edit": {"display_name": "Forged"},
        f"{project}/suspend": {},
        f"{project}/resume": {},
        "/operators": {"permissions": "*:*"},
        f"{key}/edit": {"purpose": "forged"},
        f"{key}/disable": {},
        f"{key}/enable": {},
        f"{key}/rotate": {"overlap": "0s"},
        f"{key}/revoke": {"reason": "other"},
        "/check": {"purpose": "x"},
        "/sign-out": {},
    }


def forgeries(console: ConsoleProcess, other: Person) -> Iterator[tuple[dict[str, str], str]]:
    """Yield headers and a form token that no page of this console in this session would send."""
    own = {"origin": console.url}
    stolen = other.form("/projects")["csrf_token"]
    same = {"sec-fetch-site": "same-origin"}
    yield {"origin": "https://evil.example"}, ""
    yield {"origin": "https://evil.example", **same}, ""
    yield {"origin": console.url.replace("http:", "https:")}, ""
    yield {"origin": f"{console.url}.evil.example"}, ""
    yield {"origin": console.url.rpartition(":")[0]}, ""
    yield {"origin": "null"}, ""
    yield {"origin": "null", "sec-fetch-site": "cross-site"}, ""
    yield {"origin": "null", "sec-fetch-site": "same-site"}, ""
    yield {"sec-fetch-site": "none"}, ""
    yield {}, ""
    yield own, stolen
    yield own, "0" * 64
    yield own, "é"
    yield own, "missing"


def test_forged_post_is_refused_and_changes_nothing(
    person: Person,
    console: ConsoleProcess,
    console_server: ServerProcess,
    client: Client,
    project_id: str,
    access_key: str,
) -> None:
    """Another site, another session's token, or none: 403 on every path, and no revision."""
    other = Person(console.url)
    other.sign_in(console_server.operator_key)
    before = revision(client, project_id)
    tried = list(forgeries(console, other))
    for path, fields in posts(project_id, access_key).items():
        right = hidden_fields(person.get(path if "/check" not in path else "/projects").text)
        right |= hidden_fields(person.get("/projects").text)
        for headers, token in tried:
            forged = {**right, **fields, **({"csrf_token": token} if token else {})}
            if token == "missing":
                del forged["csrf_token"]
            answer = person.browser.post(path, data=forged, headers=headers)
            assert answer.status_code == 403, (path, headers, token, answer.text)
    assert revision(client, project_id) == before
    assert person.get("/projects").status_code == 200  # still signed in


def test_forged_sign_in_is_refused(console: ConsoleProcess, console_server: ServerProcess) -> None:
    """No other site can sign a browser in with its own operator key."""
    for headers in ({"origin": "https://evil.example"}, {"origin": "null"}, {}):
        visitor = Person(console.url)
        fields = {"operator_key": console_server.operator_key}
        answer = visitor.browser.post("/sign-in", data=fields, headers=headers)
        assert answer.status_code == 403
        assert visitor.get("/projects").status_code == 303
    visitor = Person(console.url)
    fields = visitor.form("/sign-in") | {"operator_key": console_server.operator_key}
    assert visitor.post("/sign-in", fields | {"csrf_token": "0" * 64}).status_code == 403


def test_browser_without_referrer_may_post(person: Person, project_id: str) -> None:
    """Under no-referrer browsers send `Origin: null`; Sec-Fetch-Site tells their own pages."""
    path = f"/projects/{project_id}/keys/new"
    fields = person.form(path) | {"mode": "test", "kind": "secret"}
    headers = {"origin": "null", "sec-fetch-site": "same-origin"}
    assert person.browser.post(path, data=fields, headers=headers).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "localhost:{port}", ""],
)
def test_other_host_is_misdirected(console: ConsoleProcess, person: Person, host: str) -> None:
    """A name that an attacker points at this machine shows and does nothing."""
    port = console.url.rpartition(":")[2]
    answer = person.browser.get("/projects", headers={"host": host.format(port=port)})
    assert answer.status_code in (421, 400) if not host else answer.status_code == 421
    assert "projects" not in answer.text


def test_sign_in_link_works_once(console: ConsoleProcess) -> None:
    """A second use, a wrong token and a HEAD request do not sign in."""
    path = console.link.removeprefix(console.url)
    visitor = Person(console.url)
    assert visitor.get("/sign-in?token=").status_code == 403
    assert visitor.get(f"{path}x").status_code == 403
    visitor.browser.head(path)
    first = visitor.get(path)
    assert (first.status_code, first.headers["location"]) == (303, "/projects")
    assert visitor.get("/projects").status_code == 200
    for other in (visitor, Person(console.url)):
        assert other.get(path).status_code == 403
    assert Person(console.url).get("/projects").status_code == 303


def test_session_cookie_is_hidden_from_scripts_and_other_sites(
    console: ConsoleProcess, console_server: ServerProcess
) -> None:
    """The session is another one after signing in, and ends at signing out."""
    visitor = Person(console.url)
    before = visitor.get("/sign-in").headers["set-cookie"]
    answer = visitor.sign_in(console_server.operator_key)
    cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
    assert cookie.split(";")[0] != before.split(";")[0]
    kept = dict(visitor.browser.cookies)
    assert visitor.post("/sign-out", visitor.form("/projects")).status_code == 303
    stale = httpx.get(f"{console.url}/projects", cookies=kept)
    assert stale.status_code == 303


@pytest.mark.parametrize(
    "key",
    ["", "odd", "op_live_KA0123456789ABCDEFGH_fvoEdQeeVc0mZ71i5JuiKNTDvWO8cAduGHnTmvX86Qo1NFkcX"],
)
def test_wrong_operator_key_does_not_sign_in(console: ConsoleProcess, key: str) -> None:
    """The form comes back without the key."""
    visitor = Person(console.url)
    answer = visitor.submit("/sign-in", operator_key=key)
    assert answer.status_code == 422
    assert not key or key not in answer.text
    assert visitor.get("/projects").status_code == 303


def test_get_changes_nothing(
    person: Person, client: Client, project_id: str, access_key: str
) -> None:
    """Links, prefetches and images of other sites are GET requests."""
    before = revision(client, project_id)
    for path, fields in posts(project_id, access_key).items():
        for method in ("GET", "HEAD"):
            person.browser.request(method, path, params=fields)
        for method in ("PUT", "DELETE", "PATCH"):
            answer = person.browser.request(method, path, headers={"origin": person.url})
            assert answer.status_code == 405
    assert revision(client, project_id) == before


def test_mark_of_another_request_cannot_be_guessed(person: Person, project_id: str) -> None:
    """An unknown mark is answered alike and marks nothing."""
    path = f"/projects/{project_id}/keys/new"
    fields = person.form(path) | {"mode": "test", "kind": "secret"}
    answer = person.post(path, fields)
    assert person.get("/secret-shown/unknown").status_code == 200
    assert person.browser.head(mark_of(answer)).status_code == 405
    assert person.post(path, fields).status_code == 200


def test_large_or_odd_bodies_are_refused(person: Person, project_id: str) -> None:
    """Before they fill memory, and without a trace of the code."""
    path = f"/projects/{project_id}/keys/new"
    headers = {"origin": person.url}
    fields = person.form(path)
    large = person.browser.post(path, data=fields | {"purpose": "x" * 2_000_000}, headers=headers)
    assert large.status_code == 413
    for body, kind in (
        (b"{}", "application/json"),
        (b"\xff\xfe%zz=%%", "application/x-www-form-urlencoded"),
        (b"--x\r\nodd", "multipart/form-data; boundary=x"),
        (b"", "multipart/form-data"),
        (b"a=1&" * 5000, "application/x-www-form-urlencoded"),
    ):
        answer = person.browser.post(path, content=body, headers={**headers, "content-type": kind})
        assert answer.status_code in ((400, 403) if kind.endswith("urlencoded") else (415,))
        assert "Traceback" not in answer.text


@pytest.mark.parametrize("path", ["/sign-in", "/projects", "/sign-out"])
def test_form_in_a_character_set_of_its_own_is_refused_unread(person: Person, path: str) -> None:
    """Without a session, in which 100 KB of punycode would take 1.2 s, and a megabyte minutes."""
    part = b'--x\r\ncontent-disposition: form-data; name="a"\r\n\r\n' + b"9" * 100_000
    kind = "multipart/form-data; charset=punycode; boundary=x"
    headers = {"origin": person.url, "content-type": kind}
    began = time.monotonic()
    answer = httpx.post(person.url + path, content=part + b"\r\n--x--\r\n", headers=headers)
    assert answer.status_code == (415 if path == "/sign-in" else 403)
    assert time.monotonic() - began < 1


def test_hostile_texts_are_shown_as_text(person: Person, client: Client) -> None:
    """In names, purposes, labels, notes and search: no markup, no template, no override."""
    project_id = client.create_project(HOSTILE, labels=HOSTILE_LABELS).project_id
    key = client.create_key(
        project_id, mode="test", kind="secret", purpose=HOSTILE, labels=HOSTILE_LABELS
    ).key
    operator = client.create_key(kind="operator", purpose=HOSTILE, permissions=["keys:verify"])
    client.revoke_key(key.access_key, reason="other", note=HOSTILE)
    project = f"/projects/{project_id}"
    pages = (
        *("/projects", project, f"{project}/edit", f"{project}/keys/new", f"{project}/suspend"),
        *(f"/keys/{key.access_key}{action}" for action in ("", "/edit", "/revoke")),
        *(f"/keys/{operator.key.access_key}", "/operators", f"/audit?project_id={project_id}"),
    )
    answers = [person.get(path) for path in pages]
    query = dict.fromkeys(
        ("q", "label", "state", "mode", "actor", "page_token", "verdict", "start_time"), HOSTILE
    )
    searches = (project, "/audit", "/usage", "/advisories", "/sign-in")
    answers += [person.browser.get(path, params=query) for path in searches]
    answers.append(person.submit(f"{project}/keys/new", kind=HOSTILE, purpose=HOSTILE, ttl=HOSTILE))
    for answer in answers:
        assert answer.status_code in (200, 422), (answer.url, answer.status_code)
        tags = Tags(answer.text)
        assert tags.scripts == 1, answer.url
        assert tags.handlers == []
        assert [link for link in tags.links if not link.startswith(("/", "#", "?"))] == []
        assert "49{%" not in answer.text
        shown = re.sub(r"<textarea.*?</textarea>", "", answer.text, flags=re.DOTALL)
        assert "\u202e" not in readable(shown)
    assert HOSTILE.replace("\u202e", "\\u202e") in readable(answers[1].text)
