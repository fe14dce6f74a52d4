"""Requests and output of each `keyauthority` command."""

from __future__ import annotations

import json
import shlex
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from keyauthority import convert
from keyauthority.model import (
    AndroidApp,
    ApiTarget,
    ApiTargetRestriction,
    App,
    Facts,
    KeyKind,
    KeyMode,
    KeyState,
    Quota,
    QuotaPeriod,
    RateLimit,
    Restrictions,
    RevokeReason,
)
from keyauthority.requests import KeyFilter, NewKey, NewProject, Revocation, VerifyQuery
from keyauthority.results import KeyLookup, Page
from keyauthority.v1 import key_authority_service_pb2 as service_pb2
from keyauthority.v1 import project_service_pb2
from tests.client import records
from tests.client.conftest import Command
from tests.client.fake_authority import FakeAuthority
from tests.client.records import KEY, OTHER_KEY, PROJECT, PROJECT_ID, TOKEN
from tests.client.strategies import at

_PROJECT_ANSWER = project_service_pb2.GetProjectResponse(project=convert.project_to_proto(PROJECT))
_KEY_ANSWER = service_pb2.GetKeyResponse(key=convert.key_to_proto(KEY))
_REVOKED_ANSWER = convert.revoked_key_to_proto(records.REVOKED)
_CREATED_ANSWER = convert.created_key_to_proto(records.CREATED_KEY)

COMMANDS: list[tuple[str, Message, Message]] = [
    (
        "projects create --display-name Shop --label a=b=c --rate-limit 100/1m --request-id id",
        convert.new_project_to_proto(
            NewProject(
                display_name="Shop",
                labels={"a": "b=c"},
                rate_limit=RateLimit(100, timedelta(minutes=1)),
                request_id="id",
            )
        ),
        convert.created_project_to_proto(records.CREATED_PROJECT),
    ),
    (
        f"projects show --project-id {PROJECT_ID}",
        project_service_pb2.GetProjectRequest(project_id=PROJECT_ID),
        _PROJECT_ANSWER,
    ),
    (
        "projects list",
        project_service_pb2.ListProjectsRequest(page_size=1000),
        convert.project_page_to_proto(Page((PROJECT,))),
    ),
    (
        (
            f"keys create --project-id {PROJECT_ID} --mode test --kind restricted "
            "--purpose 'nightly export' --permission orders:read --permission a:b "
            "--allowed-ip 10.0.0.0/8 --allowed-referrer shop.example/* --android-app "
            "example.shop=00 --ios-bundle-id example.ios --api-target one.example "
            "--api-target two.example=Get*,Put --ttl 90d --rate-limit 100/12h --quota "
            "1000/day --label a=b --request-id id"
        ),
        convert.new_key_to_proto(
            NewKey(
                project_id=PROJECT_ID,
                mode=KeyMode.TEST,
                kind=KeyKind.RESTRICTED,
                purpose="nightly export",
                permissions=("orders:read", "a:b"),
                restrictions=Restrictions(
                    allowed_ips=("10.0.0.0/8",),
                    allowed_referrers=("shop.example/*",),
                    android_apps=(AndroidApp("example.shop", "00"),),
                    ios_bundle_ids=("example.ios",),
                    api_targets=(
                        ApiTargetRestriction("one.example"),
                        ApiTargetRestriction("two.example", ("Get*", "Put")),
                    ),
                ),
                ttl=timedelta(days=90),
                rate_limit=RateLimit(100, timedelta(hours=12)),
                quota=Quota(1000, QuotaPeriod.DAY),
                labels={"a": "b"},
                request_id="id",
            )
        ),
        _CREATED_ANSWER,
    ),
    (
        (
            f"keys create --kind operator --operator-project {PROJECT_ID} --permission "
            "keys:verify --expire-time 2030-01-31T12:00:00Z --request-id id"
        ),
        convert.new_key_to_proto(
            NewKey(
                kind=KeyKind.OPERATOR,
                operator_projects=(PROJECT_ID,),
                permissions=("keys:verify",),
                expire_time=datetime(2030, 1, 31, 12, tzinfo=UTC),
                request_id="id",
            )
        ),
        _CREATED_ANSWER,
    ),
    (
        f"keys show --access-key {KEY.access_key}",
        service_pb2.GetKeyRequest(access_key=KEY.access_key),
        _KEY_ANSWER,
    ),
    (
        (
            f"keys list --project-id {PROJECT_ID} --mode live --kind secret --state active "
            "--label a=b --expires-before 2026-01-01T00:00:01Z --used-before "
            "2026-01-01T00:00:02+00:00 --never-used"
        ),
        service_pb2.ListKeysRequest(
            project_id=PROJECT_ID,
            filter=convert.key_filter_to_proto(
                KeyFilter(
                    mode=KeyMode.LIVE,
                    kind=KeyKind.SECRET,
                    state=KeyState.ACTIVE,
                    labels={"a": "b"},
                    expires_before=at(1),
                    used_before=at(2),
                    never_used=True,
                )
            ),
            page_size=1000,
        ),
        convert.key_page_to_proto(Page((KEY, OTHER_KEY))),
    ),
    (
        f"keys revoke --access-key {KEY.access_key} --reason leaked --note x",
        convert.revocation_to_proto(
            Revocation(access_key=KEY.access_key, reason=RevokeReason.LEAKED, note="x")
        ),
        _REVOKED_ANSWER,
    ),
    (
        "keys revoke --by-secret",
        convert.revocation_to_proto(Revocation(secret_key=TOKEN)),
        convert.revoked_key_to_proto(records.SELF_REVOKED),
    ),
    (
        (
            f"verify --access-key {KEY.access_key} --project-id {PROJECT_ID} --mode live "
            "--permission orders:read --client-ip 10.0.0.7 --referrer https://a/ "
            "--android-app p=00 --ios-bundle-id i --api-target s=m --cost 0 "
            "--at-least-revision 7 --log-id l --explain --include-record"
        ),
        convert.verify_query_to_proto(
            VerifyQuery(
                secret_key=TOKEN,
                facts=Facts(
                    access_key=KEY.access_key,
                    project_id=PROJECT_ID,
                    mode=KeyMode.LIVE,
                    permissions=("orders:read",),
                    client_ip="10.0.0.7",
                    referrer="https://a/",
                    app=App(android_package="p", android_sha1="00", ios_bundle_id="i"),
                    api_target=ApiTarget("s", "m"),
                ),
                cost=0,
                at_least_revision=7,
                log_id="l",
                explain=True,
                include_record=True,
            )
        ),
        records.VALID_ANSWER,
    ),
    (
        "keys lookup",
        service_pb2.LookupKeyRequest(secret_key=TOKEN),
        convert.key_lookup_to_proto(KeyLookup(key=KEY, project=PROJECT)),
    ),
    (
        "whoami",
        service_pb2.GetCallerRequest(),
        service_pb2.GetCallerResponse(access_key=KEY.access_key, operator_projects=[PROJECT_ID]),
    ),
    (
        f"project-id --access-key {KEY.access_key}",
        service_pb2.GetProjectIdRequest(access_key=KEY.access_key, secret_key=TOKEN),
        service_pb2.GetProjectIdResponse(project_id=PROJECT_ID),
    ),
]


@pytest.mark.parametrize(("line", "request_", "answer"), COMMANDS)
def test_command_sends_its_options_and_prints_json(
    command: Command,
    authority: FakeAuthority,
    line: str,
    request_: Message,
    answer: Message,
) -> None:
    """Options have the names of fields; the JSON is the proto's, with defaults."""
    authority.will(answer)

    ended = command(*shlex.split(line), "--json", stdin=f"{TOKEN}\n".encode())

    expected = MessageToDict(answer, always_print_fields_with_no_presence=True)
    assert (ended.code, ended.err) == (0, "")
    assert json.loads(ended.out) == expected
    assert [seen.request for seen in authority.seen] == [request_]


@pytest.mark.parametrize(("line", "request_", "answer"), COMMANDS)
def test_command_prints_text_without_json(
    command: Command,
    authority: FakeAuthority,
    line: str,
    request_: Message,
    answer: Message,
) -> None:
    """Ids are complete on one line, to be copied."""
    authority.will(answer)

    ended = command(*shlex.split(line), stdin=f"{TOKEN}\n".encode())

    shown = KEY.access_key if line.startswith(("keys", "verify")) else PROJECT_ID
    assert (ended.code, ended.err) == (0, "")
    assert shown in ended.out.split()
