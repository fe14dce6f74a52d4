"""Forms: refused input comes back as it was filled in, and no change is overwritten."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from keyauthority import Client, Restrictions
from tests.console.people import (
    Person,
    access_key_of,
    field_texts,
    hidden_fields,
    readable,
    revision,
)

pytestmark = pytest.mark.xdist_group("console")


def test_refused_key_comes_back_as_filled_in_with_all_errors(
    person: Person, client: Client, project_id: str
) -> None:
    """Each error stands beside its field, with the line of a list; nothing is created."""
    before = revision(client, project_id)
    given = {
        "purpose": 'a "quoted" <b>purpose</b>',
        "permissions": "orders:read\nnot a permission",
        "allowed_ips": "10.0.0.0/8\n300.1.1.1",
        "allowed_referrers": "https://user@shop.example/",
        "ttl": "90 days",
        "rate_limit": "often",
        "labels": "no value",
    }
    answer = person.submit(
        f"/projects/{project_id}/keys/new", mode="live", kind="restricted", **given
    )
    assert answer.status_code == 422
    texts = field_texts(answer.text)
    assert given == {name: texts[name] for name in given}
    assert '<input type="radio" name="mode" value="live" required checked>' in answer.text
    for name in given.keys() - {"purpose"}:
        assert f'id="{name}-error"' in answer.text, name
    assert "Line 2: 'not a permission' is not a permission" in readable(answer.text)
    assert revision(client, project_id) == before


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"kind": "restricted", "permissions": ""}, "permissions"),
        ({"kind": "secret", "permissions": "orders:read"}, "permissions"),
        ({"kind": "secret", "purpose": "x" * 201}, "purpose"),
        ({"kind": "secret", "rate_limit": "10/2d"}, "rate_limit"),
        ({"kind": "secret", "ttl": "1d", "expire_time": "2035-01-01"}, "expire_time"),
        ({"kind": "secret", "expire_time": "2001-01-01"}, "expire_time"),
        ({"kind": "secret", "labels": f"{'x' * 64}=1"}, "labels"),
        ({"kind": "operator"}, "kind"),
        ({"kind": "odd"}, "kind"),
        ({"kind": ""}, "kind"),
        ({"kind": "secret", "mode": ""}, "mode"),
    ],
)
def test_input_that_the_authority_refuses_has_its_error_beside_the_field(
    person: Person, project_id: str, fields: dict[str, str], name: str
) -> None:
    """The authority names the field of the request, and the form has one of the same name."""
    path = f"/projects/{project_id}/keys/new"
    answer = person.post(path, person.form(path) | {"mode": "test", **fields})
    assert answer.status_code == 422
    assert f'id="{name}-error"' in answer.text


def test_form_without_request_id_creates_nothing(person: Person, project_id: str) -> None:
    """A repeated form could create a second key."""
    path = f"/projects/{project_id}/keys/new"
    fields = person.form(path) | {"mode": "test", "kind": "secret"}
    del fields["request_id"]
    assert person.post(path, fields).status_code == 422


def test_form_with_other_content_and_a_used_request_id_is_refused(
    person: Person, client: Client, project_id: str
) -> None:
    """Back to a sent form, edited, sent again: it says so, and gets a new request_id."""
    path = f"/projects/{project_id}/keys/new"
    fields = person.form(path) | {"mode": "test", "kind": "secret"}
    person.post(path, fields)
    answer = person.post(path, fields | {"purpose": "another"})
    assert answer.status_code == 409
    assert field_texts(answer.text)["purpose"] == "another"
    renewed = hidden_fields(answer.text)
    assert renewed["request_id"] != fields["request_id"]
    assert person.post(path, fields | renewed | {"purpose": "another"}).status_code == 200
    assert ["", "another"] == [key.purpose for key in client.list_keys(project_id)]


def test_edit_overwrites_no_change_made_in_between(
    person: Person, client: Client, project_id: str
) -> None:
    """It answers 409 with the input and the present values; sent again, it saves."""
    access_key = access_key_of(person.new_key(project_id))
    path = f"/keys/{access_key}/edit"
    form = person.form(path)
    client.update_key(access_key, purpose="changed by another")
    before = revision(client, project_id)
    answer = person.post(path, form | {"purpose": "mine"})
    assert answer.status_code == 409
    assert field_texts(answer.text)["purpose"] == "mine"
    assert "Is now: changed by another" in readable(answer.text)
    assert revision(client, project_id) == before
    assert client.get_key(access_key).purpose == "changed by another"

    assert person.post(path, hidden_fields(answer.text) | {"purpose": "mine"}).status_code == 303
    assert client.get_key(access_key).purpose == "mine"


@pytest.mark.parametrize("etag", ["", "1-1.0"])
def test_edit_without_the_present_etag_is_refused(
    person: Person, client: Client, project_id: str, etag: str
) -> None:
    """An empty etag would overwrite without a check."""
    access_key = access_key_of(person.new_key(project_id))
    answer = person.submit(f"/keys/{access_key}/edit", purpose="mine", etag=etag)
    assert answer.status_code == 409
    assert client.get_key(access_key).purpose != "mine"


def test_edit_changes_only_fields_that_were_edited(
    person: Person, client: Client, project_id: str
) -> None:
    """A time keeps its microseconds; an untouched form makes no change."""
    expire_time = datetime.now(UTC).replace(microsecond=123_456) + timedelta(days=9)
    key = client.create_key(
        project_id,
        mode="test",
        kind="restricted",
        permissions=["orders:read"],
        expire_time=expire_time,
        restrictions=Restrictions(allowed_ips=("10.0.0.0/8",), ios_bundle_ids=("com.shop",)),
        labels={"team": "blue", "note": " a=b "},
    ).key
    path = f"/keys/{key.access_key}/edit"
    untouched = {**person.form(path), **field_texts(person.get(path).text)}
    assert person.post(path, untouched).status_code == 303
    assert client.get_key(key.access_key) == key

    edited = untouched | {"allowed_ips": "10.0.0.0/8\r\n192.0.2.7\r\n", "labels": ""}
    assert person.post(path, edited).status_code == 303
    after = client.get_key(key.access_key)
    assert after.restrictions.allowed_ips == ("10.0.0.0/8", "192.0.2.7")
    assert after.restrictions.ios_bundle_ids == ("com.shop",)
    assert after.labels == {}
    assert after.expire_time == key.expire_time
    assert after.permissions == key.permissions


def test_edit_clears_an_expiry(person: Person, client: Client, project_id: str) -> None:
    """An emptied field is unset."""
    access_key = access_key_of(person.new_key(project_id, ttl="9d"))
    assert person.submit(f"/keys/{access_key}/edit", expire_time="").status_code == 303
    assert client.get_key(access_key).expire_time is None


def test_project_is_edited_and_its_changes_are_kept(
    person: Person, client: Client, project_id: str
) -> None:
    """As a key is."""
    path = f"/projects/{project_id}/edit"
    form = person.form(path)
    answer = person.post(path, form | {"display_name": "Renamed", "rate_limit": "50/1m"})
    assert answer.status_code == 303
    assert client.get_project(project_id).display_name == "Renamed"
    stale = person.post(path, form | {"display_name": "Stale"})
    assert stale.status_code == 409
    assert client.get_project(project_id).display_name == "Renamed"


def test_state_of_the_key_is_respected(person: Person, client: Client, project_id: str) -> None:
    """A revoked key is neither edited, rotated nor enabled; the page says why."""
    access_key = access_key_of(person.new_key(project_id))
    form = person.form(f"/keys/{access_key}/edit")
    client.revoke_key(access_key)
    form["etag"] = client.get_key(access_key).etag
    edited = person.post(f"/keys/{access_key}/edit", form | {"purpose": "new"})
    rotated = person.submit(f"/keys/{access_key}/rotate", overlap="1h")
    enabled = person.submit(f"/keys/{access_key}/enable")
    assert [edited.status_code, rotated.status_code, enabled.status_code] == [409] * 3
    assert "revoked" in readable(rotated.text)


def test_typed_fields_are_checked_by_the_rules_of_the_authority(person: Person) -> None:
    """The script asks the console, which makes no call for it."""
    csrf = {"csrf_token": person.form("/projects")["csrf_token"]}
    for name, text, is_right in (
        ("permissions", "orders:read\n*:read", True),
        ("permissions", "orders", False),
        ("allowed_ips", "10.0.0.0/8", True),
        ("allowed_ips", "300.0.0.0/8", False),
        ("android_apps", "com.shop=12", False),
        ("ttl", "90d", True),
        ("ttl", "soon", False),
        ("odd", "anything", True),
    ):
        answer = person.post("/check", {**csrf, name: text})
        assert answer.status_code == 200
        assert (answer.json()[name] == []) is is_right, (name, text)
