"""Requests and output of the commands that change and count."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from datetime import timedelta

import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from keyauthority import convert
from keyauthority.model import (
    KeyKind,
    KeyState,
    Quota,
    QuotaPeriod,
    RateLimit,
    Restrictions,
    Standing,
    UsageGranularity,
)
from keyauthority.requests import KeyUpdate, ProjectUpdate, Rotation, UsageQuery
from keyauthority.results import Page
from keyauthority.v1.key_authority_service_pb2 import GetKeyResponse
from tests.client import records
from tests.client.conftest import Command
from tests.client.fake_authority import FakeAuthority
from tests.client.records import KEY, OTHER_KEY, PROJECT_ID, ROTATED, TOKEN, USAGE_ROW
from tests.client.strategies import at

_KEY_ANSWER = convert.written_key_to_proto(records.WRITTEN_KEY)
_PROJECT_ANSWER = convert.written_project_to_proto(records.CREATED_PROJECT)
_ROTATED_ANSWER = convert.rotated_key_to_proto(ROTATED)


def _key_update(*paths: str, etag: str = "", **values: object) -> Message:
    return convert.key_update_to_proto(
        KeyUpdate(access_key=KEY.access_key, paths=frozenset(paths), etag=etag, **values)  # type: ignore[arg-type]  # each test names its own
    )


def _project_update(*paths: str, etag: str = "", **values: object) -> Message:
    return convert.project_update_to_proto(
        ProjectUpdate(project_id=PROJECT_ID, paths=frozenset(paths), etag=etag, **values)  # type: ignore[arg-type]  # each test names its own
    )


COMMANDS: list[tuple[str, Message, Message]] = [
    (
        (
            f"keys update --access-key {KEY.access_key} --purpose x --permission a:b "
            "--expire-time 2026-01-01T00:00:01Z --rate-limit 5/1s --quota 7/total "
            "--label a=b --etag r7"
        ),
        _key_update(
            *("purpose", "permissions", "expire_time", "rate_limit", "quota", "labels"),
            purpose="x",
            permissions=("a:b",),
            expire_time=at(1),
            rate_limit=RateLimit(5, timedelta(seconds=1)),
            quota=Quota(7, QuotaPeriod.TOTAL),
            labels={"a": "b"},
            etag="r7",
        ),
        _KEY_ANSWER,
    ),
    (
        (
            f"keys update --access-key {KEY.access_key} --clear expire_time --clear labels "
            "--clear restrictions --purpose ''"
        ),
        _key_update("expire_time", "labels", "restrictions", "purpose"),
        _KEY_ANSWER,
    ),
    (
        (f"keys update --access-key {KEY.access_key} --clear restrictions --allowed-ip 10.0.0.0/8"),
        _key_update("restrictions", restrictions=Restrictions(allowed_ips=("10.0.0.0/8",))),
        _KEY_ANSWER,
    ),
    (
        f"keys disable --access-key {KEY.access_key}",
        _key_update("disabled", disabled=True),
        _KEY_ANSWER,
    ),
    (
        f"keys enable --access-key {KEY.access_key}",
        _key_update("disabled"),
        _KEY_ANSWER,
    ),
    (
        (
            f"keys rotate --access-key {KEY.access_key} --overlap 1h "
            "--expire-time 2026-01-01T00:00:01Z --request-id id"
        ),
        convert.rotation_to_proto(
            Rotation(
                access_key=KEY.access_key,
                overlap=timedelta(hours=1),
                expire_time=at(1),
                request_id="id",
            )
        ),
        _ROTATED_ANSWER,
    ),
    (
        (
            f"projects update --project-id {PROJECT_ID} --display-name Shop --label a=b "
            "--etag r3 --clear rate_limit"
        ),
        _project_update(
            *("display_name", "labels", "rate_limit"),
            display_name="Shop",
            labels={"a": "b"},
            etag="r3",
        ),
        _PROJECT_ANSWER,
    ),
    (
        f"projects suspend --project-id {PROJECT_ID}",
        _project_update("suspended", suspended=True),
        _PROJECT_ANSWER,
    ),
    (
        f"projects resume --project-id {PROJECT_ID}",
        _project_update("suspended"),
        _PROJECT_ANSWER,
    ),
    (
        (
            f"usage {KEY.access_key} --project-id {PROJECT_ID} --granularity day "
            "--start-time 2026-01-01T00:00:01Z --end-time 2026-01-01T00:00:02Z"
        ),
        convert.usage_query_to_proto(
            UsageQuery(
                project_id=PROJECT_ID,
                access_key=KEY.access_key,
                granularity=UsageGranularity.DAY,
                start_time=at(1),
                end_time=at(2),
                page_size=1000,
            )
        ),
        convert.usage_page_to_proto(Page((USAGE_ROW,))),
    ),
]


@pytest.mark.parametrize(("line", "request_", "answer"), COMMANDS)
def test_command_sends_its_options_and_prints_json(
    command: Command, authority: FakeAuthority, line: str, request_: Message, answer: Message
) -> None:
    """Options have the names of fields; the JSON is the proto's, with defaults."""
    authority.will(answer)

    ended = command(*shlex.split(line), "--json")

    expected = MessageToDict(answer, always_print_fields_with_no_presence=True)
    assert (ended.code, ended.err) == (0, "")
    assert json.loads(ended.out) == expected
    assert [seen.request for seen in authority.seen] == [request_]


@pytest.mark.parametrize(("line", "request_", "answer"), COMMANDS)
def test_command_prints_text_without_json(
    command: Command, authority: FakeAuthority, line: str, request_: Message, answer: Message
) -> None:
    """Ids are complete on one line, to be copied."""
    authority.will(answer)

    ended = command(*shlex.split(line))

    expected = {"keys": KEY.access_key, "projects": PROJECT_ID, "usage": USAGE_ROW.access_key}
    assert (ended.code, ended.err) == (0, "")
    assert expected[line.split()[0]] in ended.out.replace(",", "").split()


@pytest.mark.parametrize(
    ("options", "restrictions"),
    [
        (
            "--allowed-ip 192.0.2.1",
            Restrictions(allowed_ips=("192.0.2.1",), ios_bundle_ids=("example.ios",)),
        ),
        ("--clear allowed_ips", Restrictions(ios_bundle_ids=("example.ios",))),
    ],
)
def test_restriction_list_is_replaced_without_losing_the_others(
    command: Command, authority: FakeAuthority, options: str, restrictions: Restrictions
) -> None:
    """The current ones are read first, and an etag guards the change."""
    restricted = replace(
        KEY,
        restrictions=Restrictions(allowed_ips=("10.0.0.0/8",), ios_bundle_ids=("example.ios",)),
    )
    authority.will(GetKeyResponse(key=convert.key_to_proto(restricted)), _KEY_ANSWER)

    ended = command("keys", "update", "--access-key", KEY.access_key, *options.split())

    assert (ended.code, ended.err) == (0, "")
    assert [seen.method for seen in authority.seen] == ["GetKey", "UpdateKey"]
    expected = _key_update("restrictions", restrictions=restrictions, etag=KEY.etag)
    assert authority.seen[1].request == expected


def test_successor_secret_is_printed_once_on_its_own_line(
    command: Command, authority: FakeAuthority
) -> None:
    """It can be copied from there and appears nowhere else."""
    authority.will(_ROTATED_ANSWER)

    ended = command("keys", "rotate", "--access-key", KEY.access_key)

    assert ended.out.splitlines().count(TOKEN) == 1
    assert ended.out.count(TOKEN) == 1


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (KeyState.ACTIVE, "works until 2026-01-01T01:00:00Z."),
        (KeyState.SUPERSEDED, "no longer works."),
        (KeyState.EXPIRED, "no longer works."),
    ],
)
def test_rotation_prints_the_end_of_the_old_key(
    command: Command, authority: FakeAuthority, state: KeyState, expected: str
) -> None:
    """The new secret must be deployed by then."""
    rotated = replace(ROTATED, previous=replace(ROTATED.previous, state=state))
    authority.will(convert.rotated_key_to_proto(rotated))

    ended = command("keys", "rotate", "--access-key", KEY.access_key)

    assert ended.out.splitlines()[-1] == f"The old key, {KEY.access_key}, {expected}"


def test_publishable_token_is_not_called_a_secret(
    command: Command, authority: FakeAuthority
) -> None:
    """It is an ordinary field, shown at any time without a warning."""
    publishable = replace(OTHER_KEY, kind=KeyKind.PUBLISHABLE, publishable_key=TOKEN)
    authority.will(convert.rotated_key_to_proto(replace(ROTATED, key=publishable)))

    ended = command("keys", "rotate", "--access-key", KEY.access_key)

    assert "secret" not in ended.out
    assert ended.out.count(TOKEN) == 1


def test_verify_prints_remaining_units(command: Command, authority: FakeAuthority) -> None:
    """The standings of limits and quota are part of the output."""
    verdict = records.VALID._replace(
        key_standing=Standing(100, 99, at(60)),
        project_standing=Standing(5, 0, at(1)),
        quota_standing=Standing(1000, 7, None),
    )
    authority.will(convert.verdict_to_proto(verdict))

    shown = command("verify", stdin=TOKEN.encode()).out.splitlines()

    expected = [
        "key_standing      99 of 100 left until 2026-01-01T00:01:00Z",
        "project_standing  0 of 5 left until 2026-01-01T00:00:01Z",
        "quota_standing    7 of 1000 left",
    ]
    assert [line for line in shown if "standing" in line] == expected
