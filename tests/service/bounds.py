"""Requests with one field at its limit, and with one beyond it: rows for test_bad_input."""

from __future__ import annotations

from typing import Any, Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from keyauthority.v1 import key_authority_service_pb2, key_pb2, project_service_pb2
from tests.service.callers import ABSENT_KEY, MIB, key_request

_keys, _projects = key_authority_service_pb2, project_service_pb2

PROJECT: Final = "00000000-0000-4000-8000-000000000000"
"""Stands for the test's own project."""
EXTREME_SECONDS: Final = (-(2**63), -62_135_596_801, 253_402_300_800, 2**63 - 1)


def key(**fields: Any) -> Message:
    """A CreateKeyRequest for a SECRET key, or of the kind that is named."""
    return _message(key_request(PROJECT, **fields))


def restricted(**fields: Any) -> Message:
    """A CreateKeyRequest with restrictions."""
    return key(restrictions=key_pb2.Restrictions(**fields))


def listing(**fields: Any) -> Message:
    """A ListKeysRequest with a filter."""
    return _keys.ListKeysRequest(filter=_keys.KeyFilter(**fields))


def _message(request: Any) -> Message:
    assert isinstance(request, Message)
    return request


def limit(units: int, **period: int) -> key_pb2.RateLimit:
    """A rate limit."""
    return key_pb2.RateLimit(limit=units, period=Duration(**period))


def apps(count: int) -> list[key_pb2.AndroidApp]:
    """As many Android apps."""
    return [key_pb2.AndroidApp(package=f"a{number}", sha1="0" * 40) for number in range(count)]


def targets(count: int, methods: int = 0) -> list[key_pb2.ApiTargetRestriction]:
    """As many API targets."""
    names = [f"m{number}" for number in range(methods)]
    return [key_pb2.ApiTargetRestriction(service=f"s{n}", methods=names) for n in range(count)]


def permissions(count: int) -> list[str]:
    """As many grants."""
    return [f"r{number}:read" for number in range(count)]


AT_THE_LIMIT: Final = {
    "purpose": key(purpose="\U0001f511" * 200),
    "labels": key(labels={f"k{number}": "v" for number in range(32)}),
    "label's key": key(labels={"k" * 63: "v" * 255}),
    "permissions": key(kind="RESTRICTED", permissions=permissions(100)),
    "allowed_ips": restricted(allowed_ips=[f"10.0.0.{number}" for number in range(100)]),
    "all addresses": restricted(allowed_ips=["0.0.0.0/0", "::/0"]),
    "android_apps": restricted(android_apps=apps(100)),
    "ios_bundle_ids": restricted(ios_bundle_ids=[f"b{number}" for number in range(100)]),
    "api_targets": restricted(api_targets=targets(100, 2)),
    "methods": restricted(api_targets=targets(1, 100)),
    "second": key(rate_limit=limit(0, seconds=1)),
    "day": key(rate_limit=limit(2**63 - 1, seconds=86_400)),
    "quota": key(quota=key_pb2.Quota(limit=0, period=key_pb2.QUOTA_PERIOD_TOTAL)),
    "last moment": key(expire_time=Timestamp(seconds=253_402_300_799, nanos=999_999_999)),
    "display_name": _projects.CreateProjectRequest(display_name="x" * 200),
    "page_size": _keys.ListKeysRequest(page_size=1000),
    "projects": _projects.ListProjectsRequest(page_size=1000),
    "needed permissions": _keys.VerifyRequest(permissions=["a:b"] * 100),
    "cost": _keys.VerifyRequest(cost=2**63 - 1),
    "no cost": _keys.VerifyRequest(cost=0),
    "compared": _keys.VerifyRequest(access_key="\0", project_id="\r\n", log_id=""),
    "referrer": _keys.VerifyRequest(referrer="\u202ehttps://\0"),
}

BEYOND: Final[list[tuple[str, Message]]] = [
    ("kind", _keys.CreateKeyRequest(project_id=PROJECT, mode=key_pb2.KEY_MODE_TEST)),
    ("kind", _keys.CreateKeyRequest(project_id=PROJECT, mode=1, kind=5)),  # type: ignore[arg-type]
    ("mode", key(mode=key_pb2.KEY_MODE_UNSPECIFIED)),
    ("mode", key(mode=3)),
    ("project_id", _message(key_request(""))),
    ("project_id", _message(key_request("x" * MIB))),
    ("project_id", _message(key_request(PROJECT.replace("4", "A")))),
    *(("purpose", key(purpose=text)) for text in ("x" * 201, "x" * MIB, "a\0", "a\r\nb", "\x1b")),
    ("labels", key(labels={f"k{number}": "" for number in range(33)})),
    ("labels", key(labels={f"{number}": "" for number in range(100_000)})),
    *(("labels", key(labels={k: v})) for k, v in (("", "v"), ("k" * 64, "v"), ("k", "v" * 256))),
    *(("labels", key(labels={k: v})) for k, v in (("k" * MIB, ""), ("k", "v" * MIB), ("k", "\n"))),
    ("permissions", key(kind="SECRET", permissions=["a:b"])),
    ("permissions", key(kind="RESTRICTED", permissions=[])),
    ("permissions", key(kind="RESTRICTED", permissions=permissions(101))),
    ("permissions", key(kind="RESTRICTED", permissions=["a:b"] * 100_000)),
    *(
        ("permissions[1]", key(kind="RESTRICTED", permissions=["a:b", bad]))
        for bad in ("", "a", "A:b", "a:b:c", "*.a:b", "a.**:b", "a:b\n", "\u0430:b", "a" * MIB)
    ),
    ("restrictions.allowed_ips", restricted(allowed_ips=["::1"] * 101)),
    *(
        ("restrictions.allowed_ips[0]", restricted(allowed_ips=[bad]))
        for bad in ("", "10.0.0.256", "10.0.0.0/33", "010.0.0.1", "::1%eth0", "1", "x" * MIB)
    ),
    ("restrictions.allowed_referrers", restricted(allowed_referrers=["https://a/"] * 101)),
    *(
        ("restrictions.allowed_referrers[0]", restricted(allowed_referrers=[bad]))
        for bad in ("", "https://", "https://u@a/", "https://a.*.b/", "https://a/*/b", "x" * MIB)
    ),
    ("restrictions.android_apps", restricted(android_apps=apps(101))),
    ("restrictions.android_apps", restricted(android_apps=apps(50_000))),
    (
        "restrictions.android_apps[0].package",
        restricted(android_apps=[key_pb2.AndroidApp(sha1="0" * 40)]),
    ),
    (
        "restrictions.android_apps[0].sha1",
        restricted(android_apps=[key_pb2.AndroidApp(package="a", sha1="0" * 39)]),
    ),
    ("restrictions.ios_bundle_ids", restricted(ios_bundle_ids=["a"] * 101)),
    ("restrictions.ios_bundle_ids[1]", restricted(ios_bundle_ids=["a", ""])),
    ("restrictions.api_targets", restricted(api_targets=targets(101))),
    (
        "restrictions.api_targets[0].service",
        restricted(api_targets=[key_pb2.ApiTargetRestriction()]),
    ),
    ("restrictions.api_targets[0].methods", restricted(api_targets=targets(1, 101))),
    (
        "restrictions.api_targets[1].methods[0]",
        restricted(
            api_targets=[
                *targets(1),
                key_pb2.ApiTargetRestriction(service="s", methods=["*a"]),
            ]
        ),
    ),
    ("rate_limit.limit", key(rate_limit=limit(-1, seconds=1))),
    ("rate_limit.period", key(rate_limit=key_pb2.RateLimit(limit=1))),
    *(
        ("rate_limit.period", key(rate_limit=limit(1, **period)))
        for period in (
            {"nanos": 999_999_999},
            {"seconds": 86_400, "nanos": 1_000},
            {"seconds": -1},
            {"seconds": 2, "nanos": -1},
            {"seconds": 2**63 - 1},
        )
    ),
    ("quota.limit", key(quota=key_pb2.Quota(limit=-1, period=key_pb2.QUOTA_PERIOD_DAY))),
    ("quota.period", key(quota=key_pb2.Quota(limit=1))),
    ("quota.period", key(quota=key_pb2.Quota(limit=1, period=4))),  # type: ignore[arg-type]
    *(("expire_time", key(expire_time=Timestamp(seconds=at))) for at in (0, 1, *EXTREME_SECONDS)),
    *(
        ("expire_time", key(expire_time=Timestamp(seconds=4_000_000_000, nanos=nanos)))
        for nanos in (-1, 1_000_000_000, 2**31 - 1, -(2**31))
    ),
    *(("ttl", key(ttl=Duration(seconds=span))) for span in (0, -1, *EXTREME_SECONDS)),
    *(("ttl", key(ttl=Duration(seconds=1, nanos=nanos))) for nanos in (-1, 1_000_000_000)),
    ("operator_projects", key(operator_projects=[PROJECT])),
    *(("request_id", key(request_id=bad)) for bad in ("x", "x" * MIB, PROJECT.replace("4", "1"))),
    ("mode", _message(key_request("", "OPERATOR", mode=key_pb2.KEY_MODE_TEST))),
    ("project_id", _message(key_request(PROJECT, "OPERATOR"))),
    ("permissions", _message(key_request("", "OPERATOR", permissions=[]))),
    ("rate_limit", _message(key_request("", "OPERATOR", rate_limit=limit(1, seconds=1)))),
    (
        "quota",
        _message(
            key_request(
                "", "OPERATOR", quota=key_pb2.Quota(limit=1, period=key_pb2.QUOTA_PERIOD_DAY)
            )
        ),
    ),
    *(
        (f"restrictions.{field}", _message(key_request("", "OPERATOR", restrictions=one)))
        for field, one in (
            ("allowed_referrers", key_pb2.Restrictions(allowed_referrers=["https://a/"])),
            ("android_apps", key_pb2.Restrictions(android_apps=apps(1))),
            ("ios_bundle_ids", key_pb2.Restrictions(ios_bundle_ids=["a"])),
            ("api_targets", key_pb2.Restrictions(api_targets=targets(1))),
        )
    ),
    ("operator_projects[0]", _message(key_request("", "OPERATOR", operator_projects=["x"]))),
    *(("access_key", _keys.GetKeyRequest(access_key=bad)) for bad in ("", "KA", "x" * MIB)),
    ("access_key", _keys.GetKeyRequest(access_key=ABSENT_KEY.lower())),
    ("access_key", _keys.GetKeyRequest(access_key=ABSENT_KEY[:-1] + "U")),
    ("access_key", _keys.RevokeKeyRequest()),
    ("reason", _keys.RevokeKeyRequest(access_key=ABSENT_KEY, reason=7)),  # type: ignore[arg-type]
    *(("note", _keys.RevokeKeyRequest(access_key=ABSENT_KEY, note=n)) for n in ("x" * 201, "\n")),
    ("project_id", _keys.ListKeysRequest(project_id="x")),
    *(("page_size", _keys.ListKeysRequest(page_size=size)) for size in (-1, 1001, 2**31 - 1)),
    *(("page_token", _keys.ListKeysRequest(page_token=bad)) for bad in ("x", "\u00e9", "A" * MIB)),
    ("filter.mode", listing(mode=3)),
    ("filter.kind", listing(kind=5)),
    ("filter.state", listing(state=6)),
    ("filter.labels", listing(labels={f"{number}": "" for number in range(33)})),
    *(
        (f"filter.{field}", listing(**{field: Timestamp(seconds=at)}))
        for at in EXTREME_SECONDS
        for field in ("expires_before", "used_before")
    ),
    ("permissions", _keys.VerifyRequest(permissions=["a:b"] * 101)),
    *(
        ("permissions[0]", _keys.VerifyRequest(permissions=[bad]))
        for bad in ("*:*", "a:*", "a.*:b", "", "x" * MIB)
    ),
    *(("client_ip", _keys.VerifyRequest(client_ip=bad)) for bad in ("x", "10.0.0.0/8", "x" * MIB)),
    ("mode", _keys.VerifyRequest(mode=3)),  # type: ignore[arg-type]
    ("cost", _keys.VerifyRequest(cost=-1)),
    ("at_least_revision", _keys.VerifyRequest(at_least_revision=-1)),
    ("access_key", _keys.VerifyRequest(access_key="x" * MIB)),
    ("project_id", _keys.VerifyRequest(project_id="x" * MIB)),
    ("log_id", _keys.VerifyRequest(log_id="x" * MIB)),
    ("referrer", _keys.VerifyRequest(referrer="x" * MIB)),
    ("app.android_sha1", _keys.VerifyRequest(app=_keys.App(android_sha1="x"))),
    ("app.android_package", _keys.VerifyRequest(app=_keys.App(android_package="x" * MIB))),
    ("app.ios_bundle_id", _keys.VerifyRequest(app=_keys.App(ios_bundle_id="x" * MIB))),
    ("api_target.service", _keys.VerifyRequest(api_target=_keys.ApiTarget(service="x" * MIB))),
    ("api_target.method", _keys.VerifyRequest(api_target=_keys.ApiTarget(method="x" * MIB))),
    ("display_name", _projects.CreateProjectRequest(display_name="x" * 201)),
    ("display_name", _projects.CreateProjectRequest(display_name="\x7f")),
    ("labels", _projects.CreateProjectRequest(labels={"": ""})),
    ("rate_limit.period", _projects.CreateProjectRequest(rate_limit=limit(1, seconds=0))),
    ("request_id", _projects.CreateProjectRequest(request_id="x")),
    *(("project_id", _projects.GetProjectRequest(project_id=p)) for p in ("", "x", "x" * MIB)),
    ("page_size", _projects.ListProjectsRequest(page_size=1001)),
    ("page_token", _projects.ListProjectsRequest(page_token="x")),
]
