"""Lists of keys: search, filters and their limits."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest

from keyauthority import Client
from keyauthority.console.search import MATCHES
from tests.console.people import Person, access_key_of, secret_of
from tests.console.test_pages import report

pytestmark = pytest.mark.xdist_group("console")


def test_keys_are_found_by_part_of_purpose_and_access_key(
    person: Person, client: Client, project_id: str
) -> None:
    """In either case; other keys are not listed."""
    created = [
        client.create_key(project_id, mode="test", kind="secret", purpose=purpose).key.access_key
        for purpose in ("nightly EXPORT", "checkout", "Exporter for partners")
    ]
    for text, expected in (
        ("export", {0, 2}),
        ("CHECK", {1}),
        (created[1][5:12].lower(), {1}),
        ("absent", set()),
    ):
        found = person.page(f"/projects/{project_id}?q={text}")
        assert {place for place, key in enumerate(created) if key in found} == expected
        assert "3 keys read" in found


def test_search_with_many_matches_is_paged_without_gap_or_repeat(
    person: Person, client: Client, project_id: str
) -> None:
    """A page ends behind its last key, and the next one begins there."""
    created = [
        client.create_key(project_id, mode="test", kind="secret", purpose=f"export {number}")
        for number in range(120)
    ]
    seen: list[str] = []
    path = f"/projects/{project_id}?q=export"
    while path:
        text = person.get(path).text
        found = re.findall(r'class="main" href="/keys/(\w+)"', text)
        assert len(found) <= MATCHES
        seen += found
        more = re.search(r'data-continue href="([^"]+)"', text)
        path = more[1].replace("&amp;", "&") if more else ""
    assert seen == [one.key.access_key for one in created]


def test_filters_of_the_list_select_keys(person: Person, client: Client, project_id: str) -> None:
    """Mode, state, kind, label, expiry and last use; together they must all match."""

    def new(purpose: str, **fields: object) -> str:
        arguments: dict[str, object] = {"mode": "test", "kind": "secret", "purpose": purpose}
        return client.create_key(project_id, **{**arguments, **fields}).key.access_key  # type: ignore[arg-type]

    live = new("live", mode="live")
    public = new("public", kind="publishable", permissions=["orders:read"])
    labelled = new("labelled", labels={"team": "blue"})
    short = new("short", ttl=timedelta(days=5))
    revoked = new("revoked")
    client.revoke_key(revoked)
    used = new("used")
    report(client, used, {"valid": 1}, ago=timedelta(days=40))
    everything = {live, public, labelled, short, revoked, used}
    for query, expected in (
        ("", everything),
        ("mode=live", {live}),
        ("mode=test&kind=publishable", {public}),
        ("label=team%3Dblue", {labelled}),
        ("expires_within=7d", {short}),
        ("state=revoked", {revoked}),
        ("unused_for=30d", {used}),
        ("unused_for=ever", everything - {used}),
        ("mode=live&state=revoked", set()),
    ):
        text = person.page(f"/projects/{project_id}?{query}")
        assert {key for key in everything if key in text} == expected, query


@pytest.mark.parametrize(
    "query",
    [
        *("mode=odd", "state=odd", "label=odd", "expires_within=odd", "unused_for=odd"),
        *("expires_within=999999999d", "unused_for=999999999d", "page_token=odd"),
    ],
)
def test_unknown_filter_is_refused_beside_its_field(
    person: Person, project_id: str, query: str
) -> None:
    """It is not dropped silently, which would list other keys than those asked for."""
    assert person.get(f"/projects/{project_id}?{query}").status_code == 422


@pytest.mark.parametrize("page", ["/audit", "/usage", "/usage.csv"])
@pytest.mark.parametrize(
    "query",
    [
        *(
            "start_time=odd",
            "end_time=0001-01-01",
            "start_time=9999-12-31T23:59:59",
            "access_key=KA",
        ),
        *("end_time=9999-12-31", "start_time=0001-01-01T00:00%2B23:00", "project_id=%00"),
    ],
)
def test_extreme_filter_is_refused(person: Person, page: str, query: str) -> None:
    """Times at the ends of the calendar, and ids that are none."""
    assert person.get(f"{page}?{query}").status_code == 422


def test_pasted_secret_is_not_kept_in_a_search(person: Person, project_id: str) -> None:
    """The search goes on to the key that the secret names, without the secret."""
    answer = person.new_key(project_id)
    found = person.browser.get(f"/projects/{project_id}", params={"q": secret_of(answer)})
    assert (found.status_code, found.headers["location"]) == (303, f"/keys/{access_key_of(answer)}")
    assert secret_of(answer) not in found.text
