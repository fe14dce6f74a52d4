"""Both ends of the gateway: the same request gets the same answer over gRPC and over HTTP."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Callable, Mapping
from http.client import HTTPConnection
from urllib.parse import urlencode

import grpc
import pytest
from google.protobuf.json_format import MessageToDict

from keyauthority import Client
from keyauthority.gateway.identity import NAMES
from keyauthority.gateway.v1 import check_pb2 as pb
from tests.gateway.browser import http
from tests.gateway.conftest import Keys, limited_key, one_sidecar
from tests.gateway.envoy_client import CHECK, HEALTH, ask, call, raw, request, word
from tests.gateway.processes import Gateway

ALLOWED = (200, "")
LOCAL = "192.0.2.7"
JWT = "eyJhbGciOiJIUzI1NiJ9.e30.c2ln"


def both(gateway: Gateway, headers: Mapping[str, str], **requirements: str) -> tuple[int, str]:
    """Return the status and word of a request, which both ends must agree on."""
    code, body = word(ask(gateway.grpc, request(headers, source=LOCAL, **requirements)))
    forwarded = {"x-forwarded-for": LOCAL, **headers}
    answer = http.get(f"{gateway.url}/auth?{urlencode(requirements)}", headers=forwarded)
    assert (code, body) == (answer.status_code, answer.text)
    error = json.loads(body)["error"] if body else ""
    assert error == answer.headers.get("x-keyauthority-error", "")
    return code, error


def _basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


@one_sidecar
@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/auth?permission=orders:read", 200),
        ("/auth?permission=orders:read#&permission=orders:write", 503),
        ("/auth#?permission=orders:write", 404),
    ],
)
def test_requirement_in_a_fragment_opens_no_route(
    sidecar: Gateway, keys: Keys, target: str, status: int
) -> None:
    """A proxy sends its configuration as it is, with a `#` that was typed by mistake."""
    host, _, port = sidecar.http.rpartition(":")
    with contextlib.closing(HTTPConnection(host, int(port), timeout=20)) as connection:
        connection.request("GET", target, headers={"x-api-key": keys.reader})
        assert status == connection.getresponse().status


@pytest.mark.parametrize(
    "headers",
    [
        lambda key: {"authorization": "Bearer " + key},
        lambda key: {"authorization": "bearer  " + key},
        lambda key: {"authorization": _basic(key + ":")},
        lambda key: {"x-api-key": key},
        lambda key: {"x-auth-token": key},
        lambda key: {"x-auth-token": key, "x-api-key": key + ", " + key},
        lambda key: {"authorization": f"Bearer {JWT}", "x-api-key": key},
    ],
)
def test_key_is_read_from_each_header(
    sidecar: Gateway, keys: Keys, headers: Callable[[str], dict[str, str]]
) -> None:
    """The same key twice is one; a user's token beside it is ignored."""
    assert ALLOWED == both(sidecar, headers(keys.reader), permission="orders:read")


def test_each_denial_has_its_status_and_word(sidecar: Gateway, keys: Keys) -> None:
    """401 for a key that proves nothing, 403 for one that may not, 503 for no answer."""
    key = keys.reader
    unknown = keys.secret[:-20] + "A" * 14 + keys.secret[-6:]
    other_project = "00000000-0000-4000-8000-000000000000"
    assert (401, "no_key") == both(sidecar, {})
    assert (401, "malformed") == both(sidecar, {"x-api-key": "sk_live_x"})
    assert (401, "malformed") == both(sidecar, {"x-api-key": unknown})
    assert (401, "malformed") == both(sidecar, {"authorization": _basic(key + ":password")})
    assert (401, "several_keys") == both(sidecar, {"x-api-key": key + "," + keys.secret})
    assert (401, "several_keys") == both(sidecar, {"x-api-key": key, "x-auth-token": keys.secret})
    assert (401, "revoked") == both(sidecar, {"x-api-key": keys.revoked})
    assert (403, "missing_permission") == both(
        sidecar, {"x-api-key": key}, permission="orders:write"
    )
    assert (403, "wrong_mode") == both(sidecar, {"x-api-key": keys.test}, mode="live")
    assert (403, "wrong_project") == both(sidecar, {"x-api-key": key}, project_id=other_project)
    assert (503, "unavailable") == both(sidecar, {"x-api-key": keys.secret}, permision="a:b")
    assert (503, "unavailable") == both(sidecar, {}, mode="prod")


def test_client_address_is_the_proxys_word(sidecar: Gateway, keys: Keys) -> None:
    """Envoy's source; over HTTP the entry of the trusted proxy, not one that the client sent."""
    allowed = {"x-api-key": keys.local}
    assert ALLOWED == both(sidecar, allowed)
    assert ALLOWED == both(sidecar, allowed | {"x-forwarded-for": f"203.0.113.9, {LOCAL}"})
    forged = {"x-forwarded-for": f"{LOCAL}, 203.0.113.9", **allowed}
    answer = http.get(f"{sidecar.url}/auth", headers=forged)
    assert (403, {"error": "ip_not_allowed"}) == (answer.status_code, answer.json())
    other = ask(sidecar.grpc, request(forged, source="203.0.113.9"))
    assert (403, '{"error": "ip_not_allowed"}') == word(other)


def test_limits_are_spent_and_shown(sidecar: Gateway, client: Client, keys: Keys) -> None:
    """429 with the time to wait; the state of the limit is in headers for the client."""
    key = limited_key(client, keys.project_id)
    allowed = ask(sidecar.grpc, request({"x-api-key": key}))
    added = {o.header.key: o.header.value for o in allowed.ok_response.response_headers_to_add}
    assert ('"key";q=2', '"key";r=1') == (added["ratelimit-policy"], added["ratelimit"][:9])
    response = http.get(f"{sidecar.url}/auth", headers={"x-api-key": key})
    assert (200, '"key";q=2') == (response.status_code, response.headers["ratelimit-policy"])
    denied = http.get(f"{sidecar.url}/auth", headers={"x-api-key": key})
    assert (429, {"error": "rate_limited"}) == (denied.status_code, denied.json())
    assert 0 < int(denied.headers["retry-after"]) <= 3600
    limited = ask(sidecar.grpc, request({"x-api-key": key})).denied_response
    assert "retry-after" in {option.header.key for option in limited.headers}


def test_raw_headers_of_envoy_are_read_too(sidecar: Gateway, keys: Keys) -> None:
    """With `encode_raw_headers` repeated headers arrive one by one."""
    key, other = keys.reader, keys.secret
    assert ALLOWED == word(ask(sidecar.grpc, raw([("X-Api-Key", key), ("x-api-key", key)])))
    several = word(ask(sidecar.grpc, raw([("x-api-key", key), ("x-api-key", other)])))
    assert (401, '{"error": "several_keys"}') == several
    assert 401 == word(ask(sidecar.grpc, raw([("x-api-key", "\xff\xfe")])))[0]


def test_identity_is_complete_on_both_ends(sidecar: Gateway, keys: Keys) -> None:
    """Six headers, the same in Envoy's metadata; the client's own are overwritten or removed."""
    forged = dict.fromkeys(NAMES, "forged") | {
        "x_keyauthority_mode": "forged",
        "x-api-key": keys.reader,
    }
    ok = ask(sidecar.grpc, request(forged)).ok_response
    metadata = MessageToDict(ask(sidecar.grpc, request(forged)).dynamic_metadata)["keyauthority"]
    response = http.get(f"{sidecar.url}/auth", headers=forged)
    for options in ok.headers:
        assert (2, True) == (options.append_action, options.keep_empty_value)
    identity = {option.header.key: option.header.value for option in ok.headers}
    assert list(NAMES) == list(identity)
    assert identity == {name: response.headers[name] for name in NAMES}
    assert ("live", "restricted", "orders:read") == tuple(identity.values())[2:5]
    assert ["x-api-key", "x_keyauthority_mode"] == list(ok.headers_to_remove)
    assert keys.project_id == metadata["project_id"]
    assert ["orders:read"] == metadata["permissions"]


@one_sidecar
def test_auth_answers_every_method_and_reads_no_body(sidecar: Gateway, keys: Keys) -> None:
    """A proxy may pass both on; the connection ends, and the body is not waited for."""
    headers = {"x-api-key": keys.reader}
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
        response = http.request(method, f"{sidecar.url}/auth", headers=headers)
        assert (200, b"") == (response.status_code, response.content)
        assert "no-store" == response.headers["cache-control"]
    denied = http.head(f"{sidecar.url}/auth")
    assert (401, b"", "Bearer") == (
        denied.status_code,
        denied.content,
        denied.headers["www-authenticate"],
    )
    posted = http.post(f"{sidecar.url}/auth", headers=headers, content=b"x" * 100_000)
    assert (200, "close") == (posted.status_code, posted.headers["connection"])


@one_sidecar
def test_other_paths_are_not_found(sidecar: Gateway, keys: Keys) -> None:
    """A proxy with a wrong path never takes an answer for an admission."""
    for path in ("/", "/auth/", "/Auth", "//auth", "/auth/x", "/auth%2f", "/x/../authx"):
        response = http.get(sidecar.url + path, headers={"x-api-key": keys.secret})
        assert 404 == response.status_code


def test_health_and_metrics_are_served(sidecar: Gateway) -> None:
    """SERVING while the gateway can decide; checks are counted by end and verdict."""
    assert b"\x08\x01" == call(sidecar.grpc, HEALTH, b"")
    assert 200 == http.get(f"{sidecar.url}/healthz").status_code
    before = _checks(sidecar, "http", "no_key")
    http.get(f"{sidecar.url}/auth")
    assert before + 1 == _checks(sidecar, "http", "no_key")
    with pytest.raises(grpc.RpcError) as unknown:
        call(sidecar.grpc, HEALTH, b"\x0a\x01x")
    assert grpc.StatusCode.NOT_FOUND is unknown.value.code()


def test_malformed_check_is_denied(sidecar: Gateway) -> None:
    """An unreadable message admits nothing."""
    answer = call(sidecar.grpc, CHECK, b"\xff\xff\xff")
    assert 503 == pb.CheckResponse.FromString(answer).denied_response.status.code


def _checks(gateway: Gateway, end: str, verdict: str) -> int:
    name = f'keyauthority_gateway_checks_total{{end="{end}",verdict="{verdict}"}} '
    lines = http.get(f"{gateway.url}/metrics").text.splitlines()
    return next((int(line.removeprefix(name)) for line in lines if line.startswith(name)), 0)
