"""Requests and results of each call of both clients."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.message import Message

from keyauthority import convert
from keyauthority.errors import InvalidArgument
from keyauthority.model import (
    ApiTarget,
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
from keyauthority.results import (
    CallerIdentity,
    KeyLookup,
    Page,
)
from keyauthority.v1 import key_authority_service_pb2 as service_pb2
from keyauthority.v1 import project_service_pb2
from tests.client import records
from tests.client.conftest import Call
from tests.client.fake_authority import FakeAuthority
from tests.client.records import KEY, OTHER_KEY, PROJECT, PROJECT_ID, TOKEN
from tests.client.strategies import at

_LIMIT = RateLimit(100, timedelta(minutes=1))
_QUOTA = Quota(1000, QuotaPeriod.DAY)
_RESTRICTIONS = Restrictions(allowed_ips=("10.0.0.0/8",))
_APP = App(ios_bundle_id="example.shop")
_TARGET = ApiTarget("translate.shop.example", "GetTranslation")

_CALLER = CallerIdentity(
    access_key=KEY.access_key,
    certificate_name="",
    permissions=("keys:*",),
    operator_projects=(PROJECT_ID,),
    allowed_ips=("10.0.0.0/8",),
    expire_time=at(7),
)

_WHOLE_KEY: dict[str, Any] = {
    "mode": "test",
    "kind": "restricted",
    "purpose": "nightly export",
    "permissions": ["orders:read"],
    "restrictions": _RESTRICTIONS,
    "rate_limit": _LIMIT,
    "quota": _QUOTA,
    "labels": {"team": "billing"},
    "operator_projects": [PROJECT_ID],
    "request_id": "id",
}
_WHOLE_REQUEST = NewKey(
    project_id=PROJECT_ID,
    mode=KeyMode.TEST,
    kind=KeyKind.RESTRICTED,
    purpose="nightly export",
    permissions=("orders:read",),
    restrictions=_RESTRICTIONS,
    ttl=timedelta(days=90),
    rate_limit=_LIMIT,
    quota=_QUOTA,
    labels={"team": "billing"},
    operator_projects=(PROJECT_ID,),
    request_id="id",
)
_PRESENTATION = VerifyQuery(
    secret_key=TOKEN,
    facts=Facts(
        access_key=KEY.access_key,
        project_id=PROJECT_ID,
        mode=KeyMode.LIVE,
        permissions=("orders:read",),
        client_ip="10.0.0.7",
        referrer="https://shop.example/",
        app=_APP,
        api_target=_TARGET,
    ),
    cost=3,
    at_least_revision=7,
    log_id=records.LOG_ID,
    explain=True,
    include_record=True,
)

CALLS: list[tuple[str, tuple[Any, ...], dict[str, Any], Message, Message, object]] = [
    (
        "create_project",
        ("Shop",),
        {"labels": {"a": "b"}, "rate_limit": _LIMIT, "request_id": "id"},
        convert.new_project_to_proto(
            NewProject(display_name="Shop", labels={"a": "b"}, rate_limit=_LIMIT, request_id="id")
        ),
        convert.created_project_to_proto(records.CREATED_PROJECT),
        PROJECT,
    ),
    (
        "get_project",
        (PROJECT_ID,),
        {},
        project_service_pb2.GetProjectRequest(project_id=PROJECT_ID),
        project_service_pb2.GetProjectResponse(project=convert.project_to_proto(PROJECT)),
        PROJECT,
    ),
    (
        "list_projects",
        (),
        {"page_size": 7},
        project_service_pb2.ListProjectsRequest(page_size=7),
        convert.project_page_to_proto(Page((PROJECT,))),
        [PROJECT],
    ),
    (
        "create_key",
        (PROJECT_ID,),
        {**_WHOLE_KEY, "ttl": timedelta(days=90)},
        convert.new_key_to_proto(_WHOLE_REQUEST),
        convert.created_key_to_proto(records.CREATED_KEY),
        records.CREATED_KEY,
    ),
    (
        "create_key",
        (),
        {"kind": KeyKind.OPERATOR, "expire_time": at(0), "request_id": "id"},
        convert.new_key_to_proto(NewKey(kind=KeyKind.OPERATOR, expire_time=at(0), request_id="id")),
        convert.created_key_to_proto(records.CREATED_KEY),
        records.CREATED_KEY,
    ),
    (
        "get_key",
        (KEY.access_key,),
        {},
        service_pb2.GetKeyRequest(access_key=KEY.access_key),
        service_pb2.GetKeyResponse(key=convert.key_to_proto(KEY)),
        KEY,
    ),
    (
        "list_keys",
        (PROJECT_ID,),
        {
            "mode": KeyMode.TEST,
            "kind": "secret",
            "state": "active",
            "labels": {"a": "b"},
            "expires_before": at(1),
            "used_before": at(2),
            "never_used": True,
            "page_size": 5,
        },
        service_pb2.ListKeysRequest(
            project_id=PROJECT_ID,
            filter=convert.key_filter_to_proto(
                KeyFilter(
                    mode=KeyMode.TEST,
                    kind=KeyKind.SECRET,
                    state=KeyState.ACTIVE,
                    labels={"a": "b"},
                    expires_before=at(1),
                    used_before=at(2),
                    never_used=True,
                )
            ),
            page_size=5,
        ),
        convert.key_page_to_proto(Page((KEY, OTHER_KEY))),
        [KEY, OTHER_KEY],
    ),
    (
        "revoke_key",
        (KEY.access_key,),
        {"reason": "key_compromise", "note": "seen"},
        convert.revocation_to_proto(
            Revocation(access_key=KEY.access_key, reason=RevokeReason.KEY_COMPROMISE, note="seen")
        ),
        convert.revoked_key_to_proto(records.REVOKED),
        records.REVOKED,
    ),
    (
        "revoke_key",
        (),
        {"secret_key": TOKEN},
        convert.revocation_to_proto(Revocation(secret_key=TOKEN)),
        convert.revoked_key_to_proto(records.SELF_REVOKED),
        records.SELF_REVOKED,
    ),
    (
        "verify",
        (TOKEN,),
        {},
        service_pb2.VerifyRequest(secret_key=TOKEN),
        records.VALID_ANSWER,
        records.VALID,
    ),
    (
        "verify",
        (TOKEN,),
        {
            "access_key": KEY.access_key,
            "project_id": PROJECT_ID,
            "mode": "live",
            "permissions": ["orders:read"],
            "client_ip": "10.0.0.7",
            "referrer": "https://shop.example/",
            "app": _APP,
            "api_target": _TARGET,
            "cost": 3,
            "at_least_revision": 7,
            "log_id": records.LOG_ID,
            "explain": True,
            "include_record": True,
        },
        convert.verify_query_to_proto(_PRESENTATION),
        records.UNKNOWN_ANSWER,
        records.UNKNOWN,
    ),
    (
        "batch_verify",
        ([TOKEN, _PRESENTATION],),
        {},
        convert.batch_to_proto([VerifyQuery(secret_key=TOKEN), _PRESENTATION]),
        convert.verdicts_to_proto([records.UNKNOWN, records.UNKNOWN]),
        (records.UNKNOWN, records.UNKNOWN),
    ),
    (
        "lookup_key",
        (TOKEN,),
        {},
        service_pb2.LookupKeyRequest(secret_key=TOKEN),
        convert.key_lookup_to_proto(KeyLookup(key=KEY, project=None)),
        KeyLookup(key=KEY, project=None),
    ),
    (
        "import_keys",
        (records.IMPORT_SET, [records.IMPORTED]),
        {"validate_only": True},
        convert.import_to_proto(records.IMPORT_SET, [records.IMPORTED], validate_only=True),
        convert.imported_keys_to_proto(records.IMPORT_RESULT),
        records.IMPORT_RESULT,
    ),
    (
        "get_caller",
        (),
        {},
        service_pb2.GetCallerRequest(),
        convert.caller_identity_to_proto(_CALLER),
        _CALLER,
    ),
    (
        "get_project_id",
        (KEY.access_key, TOKEN),
        {},
        service_pb2.GetProjectIdRequest(access_key=KEY.access_key, secret_key=TOKEN),
        service_pb2.GetProjectIdResponse(project_id=PROJECT_ID),
        PROJECT_ID,
    ),
]


@pytest.mark.parametrize(("method", "args", "kwargs", "request_", "answer", "result"), CALLS)
def test_call_sends_its_arguments_and_returns_the_model(
    call: Call,
    authority: FakeAuthority,
    method: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    request_: Message,
    answer: Message,
    result: object,
) -> None:
    """Each argument has its own field, and the answer is a model type."""
    authority.will(answer)

    assert call(method, *args, **kwargs) == result
    assert [seen.request for seen in authority.seen] == [request_]


def test_list_continues_until_the_last_page(call: Call, authority: FakeAuthority) -> None:
    """All pages are one list; an empty page does not end it."""
    authority.will(
        convert.key_page_to_proto(Page((KEY,), "second")),
        convert.key_page_to_proto(Page((), "third")),
        convert.key_page_to_proto(Page((OTHER_KEY,))),
    )

    assert call("list_keys", PROJECT_ID) == [KEY, OTHER_KEY]
    assert [seen.request.page_token for seen in authority.seen] == ["", "second", "third"]


@pytest.mark.parametrize(
    ("method", "args", "kwargs", "field"),
    [
        ("create_key", (PROJECT_ID,), {"kind": "odd"}, "kind"),
        ("create_key", (PROJECT_ID,), {"kind": "secret", "mode": "LIVE"}, "mode"),
        ("list_keys", (), {"state": "odd"}, "filter.state"),
        ("revoke_key", ("KA",), {"reason": "odd"}, "reason"),
        ("verify", (TOKEN,), {"mode": "odd"}, "mode"),
    ],
)
def test_unknown_enum_word_is_refused_by_name(
    call: Call,
    authority: FakeAuthority,
    method: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    field: str,
) -> None:
    """InvalidArgument names the field before anything is sent."""
    with pytest.raises(InvalidArgument) as refused:
        call(method, *args, **kwargs)

    assert [violation.field for violation in refused.value.fields] == [field]
    assert authority.seen == []


@pytest.mark.parametrize(
    ("method", "args", "kwargs"),
    [
        ("create_key", (), {"kind": "secret", "expire_time": datetime(2030, 1, 1)}),  # noqa: DTZ001
        ("create_key", (), {"kind": "secret", "expire_time": at(0), "ttl": timedelta(1)}),
        ("create_project", ("\ud800",), {}),
        ("verify", (TOKEN,), {"at_least_revision": 2**63}),
        ("get_project_id", (None, "\ud800"), {}),
    ],
)
def test_unsendable_value_is_refused(
    call: Call,
    authority: FakeAuthority,
    method: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> None:
    """Naive times, two ends, broken text and numbers out of range."""
    with pytest.raises(InvalidArgument) as refused:
        call(method, *args, **kwargs)

    assert (refused.value.__cause__, refused.value.__suppress_context__) == (None, True)
    assert authority.seen == []


def test_string_in_place_of_a_list_is_refused(call: Call) -> None:
    """Otherwise `permissions="a:b"` would request three one-letter permissions."""
    with pytest.raises(TypeError, match="permissions"):
        call("verify", TOKEN, permissions="a:b")


def test_non_text_token_is_sent_as_malformed(call: Call, authority: FakeAuthority) -> None:
    """A token is never an invalid argument: the server answers MALFORMED."""
    authority.will(records.UNKNOWN_ANSWER)

    call("verify", "sk_live_\ud800")

    assert authority.seen[0].request.secret_key == "sk_live_?"


def test_naive_time_error_explains_the_remedy() -> None:
    """It shows how to give a time its zone."""
    with pytest.raises(ValueError, match="its zone"):
        convert.timestamp(datetime.now(UTC).replace(tzinfo=None))
