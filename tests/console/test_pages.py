"""The pages of the console, as plain HTTP without a script."""

from __future__ import annotations

import csv
import html
import io
import re
from datetime import UTC, datetime, timedelta

import pytest

from keyauthority import Client, KeyState, Restrictions, UsageRow, VerdictCode
from keyauthority.console import advisories
from tests.console.people import (
    PURPOSE,
    ConsoleProcess,
    Person,
    access_key_of,
    readable,
    secret_of,
)

pytestmark = pytest.mark.xdist_group("console")

ABSENT_KEY = "KA000000000000000000"
ABSENT_PROJECT = "11111111-2222-4333-8444-555555555555"


def report(
    client: Client,
    access_key: str,
    counts: dict[str, int],
    *,
    ago: timedelta = timedelta(minutes=1),
) -> None:
    """Count verifications of a key."""
    time = datetime.now(UTC) - ago
    hour = time.replace(minute=0, second=0, microsecond=0)
    client.report_usage(
        UsageRow(
            access_key=access_key,
            verdict=VerdictCode(verdict),
            bucket_time=hour,
            count=count,
            cost=count if verdict == "valid" else 0,
            last_used_time=time,
        )
        for verdict, count in counts.items()
    )


def test_flow_from_a_new_project_to_a_revoked_key(person: Person, client: Client) -> None:
    """Choose a mode, give a purpose, see the secret, restrict, rotate and revoke: all by forms."""
    project_id = person.new_project("Shop")
    answer = person.new_key(project_id, mode="test", kind="restricted", ttl="90d")
    access_key, secret = access_key_of(answer), secret_of(answer)
    assert client.verify(secret, permissions=["orders:read"]).valid
    assert project_id in person.page(f"/projects/{project_id}")

    edited = person.submit(f"/keys/{access_key}/edit", allowed_ips="10.0.0.0/8")
    assert edited.status_code == 303
    assert client.verify(secret, client_ip="192.0.2.1").code is VerdictCode.IP_NOT_ALLOWED

    assert person.submit(f"/keys/{access_key}/disable").status_code == 303
    assert client.verify(secret).code is VerdictCode.DISABLED
    assert person.submit(f"/keys/{access_key}/enable").status_code == 303

    rotated = person.submit(f"/keys/{access_key}/rotate", overlap="1h")
    successor = secret_of(rotated)
    assert client.verify(successor, client_ip="10.1.1.1").valid
    assert client.verify(secret, client_ip="10.1.1.1").valid

    revoked = person.submit(f"/keys/{access_key}/revoke", reason="leaked", note="in a ticket")
    assert revoked.headers["location"] == f"/keys/{access_key}"
    assert client.verify(secret).code is VerdictCode.REVOKED
    assert client.verify(successor, client_ip="10.1.1.1").valid
    shown = person.page(f"/keys/{access_key}")
    assert "Key revoked." in shown
    assert "leaked in a ticket" in shown
    assert "Key revoked." not in person.page(f"/keys/{access_key}")


def test_every_page_has_its_security_headers(person: Person, project_id: str) -> None:
    """No page can be framed, cached or sent as a referrer; scripts and styles are its own."""
    access_key = access_key_of(person.new_key(project_id))
    actions = ("", "/rotate", "/disable", "/enable", "/revoke", "/edit")
    project = f"/projects/{project_id}"
    for path in (
        *("/projects", project, f"{project}/keys/new", f"{project}/edit", f"{project}/suspend"),
        *(f"/keys/{access_key}{action}" for action in actions),
        *("/operators", "/audit", "/usage", "/advisories", "/sign-in", f"/keys/{ABSENT_KEY}"),
    ):
        answer = person.get(path)
        assert answer.status_code == (404 if ABSENT_KEY in path else 200), path
        policy = dict(part.strip().split(" ", 1) for part in _policy(answer).split(";"))
        assert policy == {
            "default-src": "'none'",
            **dict.fromkeys(
                ("script-src", "style-src", "img-src", "form-action", "connect-src"), "'self'"
            ),
            "frame-ancestors": "'none'",
            "base-uri": "'none'",
        }
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["x-frame-options"] == "DENY"
        assert not re.search(r"<[^>]+\s(?:style|on\w+)=", answer.text)


def _policy(answer: object) -> str:
    return str(getattr(answer, "headers", {})["content-security-policy"])


def test_style_and_script_are_kept_by_browsers(person: Person) -> None:
    """Their paths name their content, so a new version has another path."""
    for path in re.findall(r'"(/static/[^"]+)"', person.get("/projects").text):
        answer = person.get(path)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
        version = path.split("/")[2]
        assert person.get(path.replace(version, "0" * len(version))).status_code == 404


def test_visitor_is_sent_to_the_sign_in_page(console: ConsoleProcess) -> None:
    """Every page needs a session; none tells whether its record exists."""
    visitor = Person(console.url)
    for path in (
        *("/projects", f"/keys/{ABSENT_KEY}", "/operators", "/audit", "/usage.csv", "/advisories"),
    ):
        answer = visitor.get(path)
        assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in")
    assert visitor.get("/").headers["location"] == "/projects"
    assert visitor.get("/changes").status_code == 204


def test_page_of_a_key_says_what_it_allows_and_how_it_is_used(
    person: Person, client: Client, project_id: str
) -> None:
    """Permissions in words, sums by verdict, a plot as SVG, and its changes."""
    answer = person.new_key(project_id, permissions="orders:read\nbilling.*:write\n*:read")
    access_key = access_key_of(answer)
    report(client, access_key, {"valid": 4321, "rate_limited": 17, "missing_permission": 5})
    page = person.get(f"/keys/{access_key}").text
    text = readable(page)
    for words in (
        "Read orders orders:read",
        "Read and write everything under billing billing.*:write",
        "Read everything *:read",
        "4,321 valid 17 limited 5 denied",
        "missing permission 5 5",
        "key created",
        PURPOSE,
    ):
        assert words in text
    assert page.count("<svg viewBox") >= 2
    assert '<rect class="denied"' in page


def test_revocation_shows_the_use_of_the_key_before_it_asks(
    person: Person, client: Client, project_id: str
) -> None:
    """Sums of 24 hours and 7 days, last use, the successor's share, and two alternatives."""
    access_key = access_key_of(person.new_key(project_id))
    report(client, access_key, {"valid": 30})
    report(client, access_key, {"valid": 500, "revoked": 3}, ago=timedelta(days=3))
    path = f"/keys/{access_key}/revoke"
    text = person.page(path)
    assert "This key is in use." in text
    assert "valid 30 530" in text
    assert "revoked 0 3" in text
    assert "Last used: 1 minute ago" in text
    assert f'href="/keys/{access_key}/rotate"' in person.get(path).text
    assert f'href="/keys/{access_key}/disable"' in person.get(path).text

    successor = access_key_of(person.submit(f"/keys/{access_key}/rotate", overlap="24h"))
    report(client, successor, {"valid": 10})
    assert "25 %" in person.page(path)
    assert "25 %" in person.page(f"/keys/{access_key}")


def test_usage_is_summed_by_verdict_and_key_and_downloaded(
    person: Person, client: Client, project_id: str
) -> None:
    """The page and the CSV have the same rows."""
    first, second = (access_key_of(person.new_key(project_id)) for _ in range(2))
    report(client, first, {"valid": 700, "expired": 20})
    report(client, second, {"valid": 50})
    text = person.page(f"/usage?project_id={project_id}")
    assert "valid 750" in text
    assert f"{first} 720 {second} 50" in text
    assert "expired 20" not in person.page(f"/usage?project_id={project_id}&verdict=valid")

    answer = person.get(f"/usage.csv?project_id={project_id}&granularity=day")
    assert answer.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    counted = {(row["access_key"], row["verdict"]): int(row["count"]) for row in rows}
    assert counted == {(first, "valid"): 700, (first, "expired"): 20, (second, "valid"): 50}


def test_advisories_name_the_key_and_the_action(
    person: Person, client: Client, project_id: str
) -> None:
    """By type and window; a filter that is not understood is refused."""
    made = client.create_key(project_id, mode="live", kind="secret").key
    path = f"/advisories?project_id={project_id}"
    text = person.page(path)
    assert f"{made.access_key} {project_id} unrestricted" in text
    assert "Add restrictions, such as allowed_ips" in text
    assert "No advisories." in person.page(f"{path}&type=old")
    client.update_key(made.access_key, restrictions=Restrictions(allowed_ips=("192.0.2.1",)))
    assert "No advisories." in person.page(path)
    assert "never used" in person.page(f"{path}&dormant_after=0&type=never_used")
    for refused in ("type=stale", "dormant_after=soon", "page_token=x"):
        assert person.get(f"{path}&{refused}").status_code == 422


def test_advisories_are_shown_page_by_page(person: Person, client: Client, project_id: str) -> None:
    """Each once, the oldest key first; the link of a page keeps the filters."""
    names = [
        client.create_key(project_id, mode="live", kind="secret").key.access_key
        for _ in range(advisories.SHOWN + 1)
    ]
    path, found = f"/advisories?project_id={project_id}&type=unrestricted", []
    while path:
        page = person.get(path).text
        found += re.findall(r'class="id first" href="/keys/(KA\w+)"', page)
        following = re.search(r'rel="next" href="(/advisories[^"]+)"', page)
        path = html.unescape(following[1]) if following else ""
        assert not path or "type=unrestricted" in path
    assert found == names


def test_audit_lists_the_newest_changes_that_match(
    person: Person, client: Client, project_id: str
) -> None:
    """With actor, address, and the fields before and after."""
    access_key = access_key_of(person.new_key(project_id))
    client.update_key(access_key, purpose="renamed")
    text = person.page(f"/audit?access_key={access_key}")
    assert text.index("key updated") < text.index("key created")
    assert f'purpose "{PURPOSE}" "renamed"' in text
    assert "127.0.0.1" in text
    assert "No changes." in person.page(f"/audit?project_id={project_id}&actor=absent")
    assert "no such project" in readable(person.get(f"/audit?project_id={ABSENT_PROJECT}").text)


def test_audit_goes_on_to_older_changes(person: Person, client: Client, project_id: str) -> None:
    """Every change is on some page."""
    key = client.create_key(project_id, mode="test", kind="secret").key
    expected = {key.revision} | {
        client.update_key(key.access_key, purpose=str(number)).revision for number in range(230)
    }
    seen: set[int] = set()
    path = f"/audit?access_key={key.access_key}"
    while path:
        text = person.get(path).text
        seen |= {int(number) for number in re.findall(r"revision (\d+)", text)}
        more = re.search(r'rel="next" href="([^"]+)"', text)
        path = more[1].replace("&amp;", "&") if more else ""
    assert seen == expected


def test_suspended_project_is_shown_and_resumed(person: Person, client: Client) -> None:
    """Its keys are denied meanwhile."""
    project_id = person.new_project("Warehouse")
    secret = secret_of(person.new_key(project_id))
    assert person.submit(f"/projects/{project_id}/suspend").status_code == 303
    assert client.verify(secret).code is VerdictCode.PROJECT_SUSPENDED
    assert "suspended" in person.page(f"/projects/{project_id}")
    assert person.submit(f"/projects/{project_id}/resume").status_code == 303
    assert client.verify(secret).valid


def test_malformed_and_absent_ids_are_the_same_404(person: Person) -> None:
    """Nothing of the path is repeated."""
    paths = (
        *(f"/keys/{ABSENT_KEY}", f"/keys/{ABSENT_KEY}/revoke", f"/projects/{ABSENT_PROJECT}"),
        *("/keys/odd", "/keys/KA", f"/keys/{ABSENT_KEY.lower()}", "/projects/odd", "/odd"),
        *(f"/projects/{ABSENT_PROJECT}/keys/new", "/projects/odd/keys/new", "/keys/%00"),
    )
    answers = {(one.status_code, one.content) for one in map(person.get, paths)}
    assert len(answers) == 1
    assert answers.pop()[0] == 404


def test_confined_operator_sees_foreign_records_as_absent(
    person: Person, console: ConsoleProcess, client: Client, project_id: str
) -> None:
    """In the same bytes, on every page; its own records are there."""
    foreign = client.create_project("Foreign").project_id
    foreign_key = access_key_of(person.new_key(foreign))
    own_key = access_key_of(person.new_key(project_id))
    created = person.submit(
        "/operators", purpose="portal", permissions="*:*", operator_projects=project_id
    )
    confined = Person(console.url)
    confined.sign_in(secret_of(created))
    for path, absent in (
        (f"/projects/{foreign}", f"/projects/{ABSENT_PROJECT}"),
        (f"/projects/{foreign}/keys/new", f"/projects/{ABSENT_PROJECT}/keys/new"),
        *(
            (f"/keys/{foreign_key}{action}", f"/keys/{ABSENT_KEY}{action}")
            for action in ("", "/edit", "/rotate", "/revoke", "/disable", "/enable")
        ),
        (f"/usage?project_id={foreign}", f"/usage?project_id={ABSENT_PROJECT}"),
        (f"/audit?access_key={foreign_key}", f"/audit?access_key={ABSENT_KEY}"),
    ):
        seen, unseen = confined.get(path), confined.get(absent)
        assert seen.status_code == unseen.status_code
        identifiers = {foreign: ABSENT_PROJECT, foreign_key: ABSENT_KEY}
        text = seen.text
        for own, other in identifiers.items():
            text = text.replace(own, other)
        assert text == unseen.text, path
        form = confined.form("/projects") | {"mode": "test", "kind": "secret"}
        sent, unsent = confined.post(path, form), confined.post(absent, form)
        assert sent.status_code in (404, 405)
        assert (sent.status_code, sent.content) == (unsent.status_code, unsent.content)
    assert confined.get(f"/keys/{own_key}").status_code == 200
    assert "Foreign" not in confined.page("/projects")
    assert client.get_key(foreign_key).state is KeyState.ACTIVE


def test_missing_right_is_named_and_the_rest_of_the_page_is_shown(
    person: Person, console: ConsoleProcess, project_id: str
) -> None:
    """A reader of keys sees keys, and the names of the rights for the rest."""
    access_key = access_key_of(person.new_key(project_id))
    created = person.submit("/operators", purpose="reader", permissions="keys:read")
    reader = Person(console.url)
    reader.sign_in(secret_of(created))
    assert "projects:read" in reader.page("/projects")
    assert PURPOSE in reader.page(f"/projects/{project_id}")
    text = reader.page(f"/keys/{access_key}")
    assert PURPOSE in text
    assert "usage:read" in text
    assert "audit:read" in text
    refused = reader.submit(f"/keys/{access_key}/disable")
    assert refused.status_code == 403
    assert "keys:update" in readable(refused.text)
    assert reader.get("/usage").status_code == 403
