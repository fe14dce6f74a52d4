"""JSON over HTTP: what Connect adds to the calls, beside the matrices that run over both."""

from __future__ import annotations

import base64
import gzip
import json
from typing import Any, Final, cast

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo

from keyauthority.errors import ErrorReason, error
from keyauthority.v1 import key_authority_service_pb2 as pb
from keyauthority_server.overload.errors import busy
from keyauthority_server.rpc_types import rpc_error_from
from keyauthority_server.transport.http.errors import STATUSES, encode
from tests.conftest import HTTP_SERVER
from tests.service.callers import METHODS, MIB, Caller, new_key, new_operator, new_project
from tests.service.http_channel import HttpChannel, Response, reason_of
from tests.service.processes import ServerProcess

pytestmark = pytest.mark.parametrize("server", [HTTP_SERVER], indirect=True)

SERVICE: Final = "/keyauthority.v1.KeyAuthorityService/"
VERIFY: Final = SERVICE + "Verify"
PROTO: Final = "application/proto"


@pytest.fixture
def http(channel: grpc.Channel) -> HttpChannel:
    """The connection of the callers."""
    return cast("HttpChannel", channel)


STRICT: Final = {
    "unknown field": b'{"bogus": 1}',
    "unknown field of an object": b'{"app": {"bogus": 1}}',
    "field twice": b'{"secretKey": "a", "secretKey": "b"}',
    "field in both spellings": b'{"secretKey": "a", "secret_key": "b"}',
    "field with an escape": rb'{"secretKey": "a", "secret\u004bey": "b"}',
    "field in the other spelling with an escape": rb'{"secret\u005fkey": "a", "secretKey": "b"}',
    "field of an object twice": b'{"app": {"androidPackage": "a", "android_package": "b"}}',
    "not a number": b'{"cost": NaN}',
    "infinity": b'{"cost": -Infinity}',
    "fraction": b'{"cost": 1.5}',
    "number beyond 64 bits": b'{"cost": 1e30}',
    "number of 5,000 digits": b'{"cost": ' + b"1" * 5_000 + b"}",
    "number for a text": b'{"secretKey": 1}',
    "text for a boolean": b'{"explain": "true"}',
    "unknown enum value": b'{"mode": "KEY_MODE_BOTH"}',
    "unpaired surrogate": rb'{"secretKey": "\ud800"}',
    "nesting of 33": b'{"app":' * 33 + b"1" + b"}" * 33,
    "nesting of 100,000": b"[" * 100_000,
    "list for an object": b'{"app": []}',
    "object for a list": b'{"permissions": {}}',
    "null in a list": b'{"permissions": [null]}',
    "array": b"[]",
    "text": b'"x"',
    "nothing": b"",
    "two values": b"{} {}",
    "comma at the end": b'{"secretKey": "a",}',
    "single quotes": b"{'secretKey': 'a'}",
    "comment": b'{"secretKey": "a" /* */}',
    "byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": '{"secretKey": "a"}'.encode("utf-16"),
    "Latin-1": b'{"secretKey": "\xe9"}',
    "control character": b'{"secretKey": "a\nb"}',
    "unclosed": b'{"secretKey": "a"',
    "protobuf": pb.VerifyRequest(secret_key="a").SerializeToString(),
}


@pytest.mark.parametrize("why", STRICT)
def test_json_outside_the_mapping_is_an_invalid_argument(
    server: ServerProcess, http: HttpChannel, why: str
) -> None:
    """The error is one of the request, and quotes no value of it."""
    response = http.request(VERIFY, STRICT[why], server.metadata)
    assert (400, "invalid_argument") == (response.status, response.json["code"])
    assert reason_of(response.json) in ("INVALID_FIELD", "INVALID_MESSAGE")


@pytest.mark.parametrize("name", ["GetProjectId", "RevokeKey"])
def test_ambiguous_secret_is_an_invalid_argument(
    server: ServerProcess, http: HttpChannel, root: Caller, name: str
) -> None:
    """Neither of two spellings of a secret is taken, and nothing is revoked."""
    secret = new_key(root, new_project(root)).secret_key
    body = json.dumps({"secretKey": secret, "secret_key": "x"}).encode()
    response = http.request(SERVICE + name, body)
    assert (400, {"secret_key"}) == (response.status, fields_of(response.json))
    assert "VALID" in http.request(VERIFY, verify(secret), server.metadata).json["verdict"]


def fields_of(failure: dict[str, Any]) -> set[str]:
    """The fields that an error names."""
    return {
        violation["field"]
        for one in failure["details"]
        for violation in one["debug"].get("fieldViolations", ())
    }


def verify(secret_key: str) -> bytes:
    """A request to Verify."""
    return json.dumps({"secretKey": secret_key}).encode()


ACCEPTED: Final = {
    "snake case": b'{"secret_key": "x", "client_ip": "10.0.0.1"}',
    "number for 64 bits": b'{"secretKey": "x", "cost": 2}',
    "text for 64 bits": b'{"secretKey": "x", "cost": "2"}',
    "whole number with an exponent": b'{"secretKey": "x", "cost": 2e0}',
    "number of an enum": b'{"secretKey": "x", "mode": 1}',
    "null": b'{"secretKey": "x", "app": null, "permissions": null}',
    "white space": b' \t\r\n{ "secretKey" : "x" } \n',
    "escapes": rb'{"secretKey": "\u0078"}',
    "text with brackets": b'{"secretKey": "{[]},:\\\\\\""}',
    "long text": json.dumps({"secretKey": "x" * MIB}).encode(),
}


@pytest.mark.parametrize("why", ACCEPTED)
def test_json_of_the_mapping_is_accepted(
    server: ServerProcess, http: HttpChannel, why: str
) -> None:
    """Both spellings, both forms of numbers; the answer has every field with its default."""
    answer = http.request(VERIFY, ACCEPTED[why], server.metadata).json
    assert ("VERDICT_MALFORMED", False) == (answer["verdict"], answer["valid"])
    assert {"accessKey", "projectId", "permissions", "labels", "revision"} <= answer.keys()
    assert isinstance(answer["revision"], str)


def test_map_keys_are_kept_as_they_are(root: Caller) -> None:
    """Labels that look like spellings of one field are two labels."""
    labels = {"secretKey": "1", "secret_key": "2"}
    assert labels == dict(new_key(root, new_project(root), labels=labels).key.labels)


def test_error_has_its_status_code_reason_and_details(http: HttpChannel) -> None:
    """As Connect writes it: base64 without padding, and the same in JSON."""
    response = http.request(VERIFY, b"{}")
    assert (401, "application/json") == (response.status, response.headers["content-type"])
    (detail,) = response.json["details"]
    info = ErrorInfo.FromString(base64.b64decode(detail["value"] + "=="))
    assert "google.rpc.ErrorInfo" == detail["type"]
    assert "=" not in detail["value"]
    assert ("ERROR_REASON_CREDENTIAL_MISSING", "keyauthority") == (info.reason, info.domain)
    assert {"reason": info.reason, "domain": info.domain} == detail["debug"]
    assert "unauthenticated" == response.json["code"]
    assert response.json["message"]


def test_every_reason_has_connects_status(server: ServerProcess) -> None:
    """Every code that a reason has is in the table, and a retry is also a header."""
    del server
    for reason in ErrorReason:
        sent = encode(rpc_error_from(error(reason, "text")))
        code = json.loads(sent.body)["code"].upper()
        assert STATUSES[code] == sent.status
        assert sent.status in {400, 401, 403, 404, 409, 429, 500, 501, 503, 504}
    assert (b"retry-after", b"1") in encode(busy()).headers


TYPES: Final = {
    "application/json": 200,
    "Application/JSON; charset=utf-8": 200,
    "application/json ;x=y": 200,
    "application/grpc": 415,
    "application/grpc+proto": 415,
    "application/connect+json": 415,
    "application/jsonx": 415,
    "text/json": 415,
    "text/plain": 415,
    "": 415,
}


@pytest.mark.parametrize("kind", TYPES)
def test_content_type_is_one_of_two(server: ServerProcess, http: HttpChannel, kind: str) -> None:
    """Case and parameters do not matter; all others are 415 and say what is accepted."""
    response = http.request(VERIFY, b"{}", server.metadata, kind)
    assert TYPES[kind] == response.status
    if response.status == 415:
        assert "application/json, application/proto" == response.headers["accept-post"]


def test_protobuf_is_answered_in_protobuf(server: ServerProcess, http: HttpChannel) -> None:
    """Its errors are JSON, as Connect has it."""
    body = pb.VerifyRequest(secret_key="x").SerializeToString()
    response = http.request(VERIFY, body, server.metadata, PROTO)
    assert (200, PROTO) == (response.status, response.headers["content-type"])
    assert pb.VERDICT_MALFORMED == pb.VerifyResponse.FromString(response.body).verdict
    response = http.request(VERIFY, b"\xff", server.metadata, PROTO)
    assert (400, "INVALID_MESSAGE") == (response.status, reason_of(response.json))


def test_unknown_rpc_is_unimplemented(server: ServerProcess, http: HttpChannel) -> None:
    """Paths are compared exactly: no other case, encoding or slash."""
    for path in (
        *(SERVICE + "DropKeys", "/", "/keyauthority.v1.Unknown/Verify", VERIFY.lower()),
        *(VERIFY + "/", "/" + VERIFY, VERIFY.replace("V", "%56"), "/grpc.health.v1.Health/Check"),
    ):
        response = http.request(path, b"{}", server.metadata)
        assert (404, "unimplemented") == (response.status, response.json["code"]), path
        assert "UNIMPLEMENTED" == reason_of(response.json)
    assert 200 == http.request(VERIFY + "?a=b", b"{}", server.metadata).status


@pytest.mark.parametrize("version", ["1", "2", "", "1.0"])
def test_protocol_version_must_be_one(
    server: ServerProcess, http: HttpChannel, version: str
) -> None:
    """It may be omitted."""
    metadata = (*server.metadata, ("connect-protocol-version", version))
    response = http.request(VERIFY, b"{}", metadata)
    assert (200 if version == "1" else 400) == response.status


TIMEOUTS: Final = {
    "1000": 200,
    "9999999999": 200,
    "0": 504,
    "": 400,
    "10000000000": 400,
    "-1": 400,
    "1.5": 400,
    "1s": 400,
    "\u0661": 400,
}


@pytest.mark.parametrize("timeout", TIMEOUTS)
def test_timeout_is_a_number_of_one_to_ten_digits(
    server: ServerProcess, http: HttpChannel, timeout: str
) -> None:
    """A call that is not answered in time ends with 504."""
    metadata = (*server.metadata, ("connect-timeout-ms", timeout.encode().decode("latin-1")))
    response = http.request(VERIFY, b"{}", metadata)
    assert TIMEOUTS[timeout] == response.status
    if response.status == 504:
        assert ("deadline_exceeded", "TIMED_OUT") == (
            response.json["code"],
            reason_of(response.json),
        )


ENCODINGS: Final = {
    "gzip": 200, "GZIP": 200, "identity": 200, "br": 501, "deflate": 501, "gzip, gzip": 501,
    "zstd": 501, "": 501,
}  # fmt: skip


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_body_may_be_compressed_with_gzip(
    server: ServerProcess, http: HttpChannel, encoding: str
) -> None:
    """Other encodings are unimplemented."""
    body = verify("x")
    body = gzip.compress(body) if encoding.lower() == "gzip" else body
    response = http.request(VERIFY, body, (*server.metadata, ("content-encoding", encoding)))
    assert ENCODINGS[encoding] == response.status
    if response.status == 501:
        assert "unimplemented" == response.json["code"]


@pytest.mark.parametrize(
    "body",
    [verify("x"), gzip.compress(verify("x"))[:-1], gzip.compress(verify("x")) + b"x", b"\x1f\x8b"],
    ids=["plain", "cut", "more behind", "magic only"],
)
def test_damaged_gzip_is_rejected(server: ServerProcess, http: HttpChannel, body: bytes) -> None:
    """A body must be one whole gzip member."""
    response = http.request(VERIFY, body, (*server.metadata, ("content-encoding", "gzip")))
    assert (400, "INVALID_MESSAGE") == (response.status, reason_of(response.json))


@pytest.mark.parametrize("size", [4 * MIB + 1, 12 * MIB, 40 * MIB])
def test_body_over_four_mebibytes_is_too_large(
    server: ServerProcess, http: HttpChannel, size: int
) -> None:
    """Plain or decompressed, also as malformed JSON."""
    gzipped = (*server.metadata, ("content-encoding", "gzip"))
    for body, metadata in ((b"x" * size, server.metadata), (gzip.compress(b"x" * size), gzipped)):
        response = http.request(VERIFY, body, metadata)
        assert (413, "resource_exhausted") == (response.status, response.json["code"])
        assert "MESSAGE_TOO_LARGE" == reason_of(response.json)


def test_body_of_four_mebibytes_is_read(server: ServerProcess, http: HttpChannel) -> None:
    """It is MALFORMED as a token, and no error."""
    body = verify("x" * (4 * MIB - len(verify(""))))
    assert 4 * MIB == len(body)
    assert "VERDICT_MALFORMED" == http.request(VERIFY, body, server.metadata).json["verdict"]


def test_large_response_is_complete(root: Caller) -> None:
    """A page of several hundred kilobytes, which a thread converts."""
    project = new_project(root)
    for _ in range(3):
        new_key(root, project, labels={f"{n:>063}": "v" * 255 for n in range(32)})
    found = root.ask(pb.ListKeysRequest(project_id=project)).keys
    assert [32, 32, 32] == [len(key.labels) for key in found]


def test_addresses_of_an_operator_are_compared_with_the_peer(
    server: ServerProcess, http: HttpChannel, root: Caller
) -> None:
    """Forwarding headers are never read."""
    here = new_operator(root, "keys:verify", restrictions={"allowed_ips": ["127.0.0.1"]})
    gone = new_operator(root, "keys:verify", restrictions={"allowed_ips": ["203.0.113.7"]})
    forwarded = [
        (name, "203.0.113.7")
        for name in ("x-forwarded-for", "x-real-ip", "true-client-ip", "cf-connecting-ip")
    ]
    forwarded.append(("forwarded", "for=203.0.113.7"))
    assert 200 == http.request(VERIFY, b"{}", (*here.metadata, *forwarded)).status
    response = http.request(VERIFY, b"{}", (*gone.metadata, *forwarded))
    assert (403, "ADDRESS_NOT_ALLOWED") == (response.status, reason_of(response.json))
    assert server.http.startswith("127.0.0.1:")


def get(http: HttpChannel, path: str, method: str = "GET") -> Response:
    """A request without a body."""
    connection = http._connection()
    connection.request(method, path)
    with connection.getresponse() as response:
        return Response(response.status, response.headers, response.read())


def test_health_and_reference_need_no_credential(server: ServerProcess, http: HttpChannel) -> None:
    """Both are GET; any other method is 405, and so is GET of everything else."""
    health, reference = get(http, "/healthz"), get(http, "/openapi.json")
    assert (200, {"status": "SERVING"}) == (health.status, health.json)
    for query, status, text in (
        *(("?service=", 200, "SERVING"), ("?service=keyauthority.changes", 200, "SERVING")),
        *(("?x=1&service=keyauthority%2Ev1.UsageService", 200, "SERVING"), ("?x", 200, "SERVING")),
        *(("?service=keyauthority", 404, "SERVICE_UNKNOWN"), ("?noservice=x", 200, "SERVING")),
        ("?service=%ff%00", 404, "SERVICE_UNKNOWN"),
    ):
        named = get(http, f"/healthz{query}")
        assert (status, {"status": text}) == (named.status, named.json), query
    assert (200, "3.1.0") == (reference.status, reference.json["openapi"])
    paths = {f"/{m.containing_service.full_name}/{m.name}" for m in METHODS.values()}
    assert paths | {"/healthz", "/openapi.json"} == set(reference.json["paths"])
    for method, path, allowed in (
        *(("GET", VERIFY, "POST"), ("GET", "/x", "POST"), ("PUT", VERIFY, "POST")),
        *(("OPTIONS", VERIFY, "POST"), ("HEAD", VERIFY, "POST"), ("DELETE", VERIFY, "POST")),
        *(("HEAD", "/healthz", "GET"), ("OPTIONS", "/healthz", "GET"), ("POST", "/healthz", "GET")),
    ):
        refused = get(http, path, method)
        assert (405, allowed) == (refused.status, refused.headers["allow"]), (method, path)
        assert not [name for name in refused.headers if name.startswith("access-control")]
    assert server.http_line
