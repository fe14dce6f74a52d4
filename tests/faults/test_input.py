"""Fields beyond every bound, found in the descriptors: rejected by name, nothing stored."""

from __future__ import annotations

import re
import tracemalloc
from threading import Event
from typing import Any, Final

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from keyauthority.v1 import (
    key_authority_service_pb2,
    key_pb2,
    project_service_pb2,
    usage_service_pb2,
)
from keyauthority_server.rpc.validate import CHECKS
from tests.conftest import HTTP_SERVER, each_transport, grpc_and_http
from tests.faults.fields import (
    Path,
    enum_fields,
    many_fields,
    text_fields,
    time_fields,
    with_many,
    with_value,
)
from tests.faults.test_tenants import OWN, Make, new_sample
from tests.service.callers import (
    MIB,
    Caller,
    Refusal,
    get_key,
    key_request,
    new_key,
    new_operator,
    new_project,
    revoke,
)
from tests.service.processes import ServerProcess

_keys, _projects = key_authority_service_pb2, project_service_pb2

MANY: Final = 100_000
# A caller's invalid large requests may take a tenth of a core; one in JSON takes half a second.
TRIES: Final = 100
PAUSE_SECONDS: Final = 0.2
grpc_and_http_proof = pytest.mark.parametrize(
    "server",
    ["sqlite-native-1", pytest.param(HTTP_SERVER, marks=pytest.mark.prove)],
    indirect=True,
)
"""For a test whose requests take the client long to write as JSON."""
CALLS: Final[dict[str, Make]] = {
    **OWN,
    "CreateProject": lambda p, k: _projects.CreateProjectRequest(display_name="one"),
    "ListProjects": lambda p, k: _projects.ListProjectsRequest(),
    "GetProjectId": lambda p, k: _keys.GetProjectIdRequest(secret_key=k.secret_key),
    "GetCaller": lambda p, k: _keys.GetCallerRequest(),
}
"""Good requests of all methods."""

WRONG_TOKEN: Final = {
    **dict.fromkeys(("Verify", "BatchVerify"), "OK"),
    **dict.fromkeys(("GetProjectId", "RevokeKey"), "UNAUTHENTICATED"),
    "LookupKey": "NOT_FOUND",
}
"""The status of a call with an invalid token."""

TEST_KEYS: Final = _keys.KeyFilter(mode=key_pb2.KEY_MODE_TEST)
MOMENTS: Final = (
    *(Timestamp(seconds=at) for at in (-(2**63), -62_135_596_801, 253_402_300_800, 2**63 - 1)),
    *(Timestamp(seconds=4_000_000_000, nanos=n) for n in (-1, 1_000_000_000, 2**31 - 1)),
)
SPANS: Final = (
    *(Duration(seconds=span) for span in (-(2**63), -1, 315_576_000_001, 2**63 - 1)),
    *(Duration(seconds=1, nanos=nanos) for nanos in (-1, 1_000_000_000, -(2**31))),
)

TEXTS: Final = (
    *("a\0b", "\0", "a\r\nb", "\n", "\x1b[2J", "\x85", "\x7f", "\u2028", "\u2029", "\ufeffa"),
    *(
        "\u202egpj.exe",
        "\u2066a\u2069",
        "\u200bzero width",
        "e\u0301",
        "\u00e9",
        "\ufb01",
        "\u212b",
    ),
    *("\uff21", "\u0130", "\u0131", "\u00df", "\u1e9e", "\u0430dmin", "\ud7ff\ue000", "\ufffd"),
    *(
        "\U000e0041",
        "\U0010ffff",
        "\U0001f468\u200d\U0001f469",
        " a ",
        "\t",
        "a\u0300" * 60,
        "\u3000",
    ),
)
NOT_UTF8: Final = {
    "high surrogate": b"\xed\xa0\x80",
    "low surrogate": b"\xed\xb0\x80",
    "surrogates as a pair": b"\xed\xa0\xbd\xed\xb4\x91",
    "overlong NUL": b"\xc0\x80",
    "beyond Unicode": b"\xf4\x90\x80\x80",
    "half a character": b"\xe2\x82",
    "Latin-1": b"\xe9",
}
LOG_LINE: Final = re.compile(r"\d{4}-\d\d-\d\dT\S+Z \w+ [^\x00-\x1f\x7f-\x9f]*")


@pytest.fixture
def made(root: Caller, project: str) -> Any:
    """A key of the test's project."""
    return new_key(root, project)


@pytest.fixture(params=CALLS)
def name(request: pytest.FixtureRequest) -> str:
    """Each call in turn."""
    return str(request.param)


def named(path: Path) -> str:
    """The name of a place as errors have it, without numbers."""
    return ".".join(path)


def tried(root: Caller, name: str, request: Message) -> Refusal | None:
    """How the call ends, once its caller may have another large request refused."""
    body, pause = request.SerializeToString(), Event()
    refused = root.outcome(name.split()[0], body)
    for _ in range(TRIES):
        if refused is None or refused.reason != "OVERLOADED":
            break
        pause.wait(PAUSE_SECONDS)
        refused = root.outcome(name.split()[0], body)
    return refused


def is_named(refused: Refusal | None, path: Path) -> bool:
    """True if the call was refused for this field, or for its parent."""
    if refused is None or refused.code.name != "INVALID_ARGUMENT":
        return False
    plain = {re.sub(r"\[\d+\]", "", field) for field in refused.fields}
    return any((named(path) + ".").startswith(f"{field}.") for field in plain)


@grpc_and_http_proof
def test_text_of_a_mebibyte_is_rejected_by_name(
    root: Caller, project: str, made: Any, name: str
) -> None:
    """Every text of every request; a token of that length is MALFORMED or no credential."""
    good, wrong = CALLS[name](project, made), []
    for path in text_fields(good):
        refused = tried(root, name, with_value(good, path, "x" * MIB))
        if path[-1] == "secret_key":
            expected = WRONG_TOKEN[name]
            if (refused.code.name if refused else "OK") != expected:
                wrong.append((path, refused))
        elif not is_named(refused, path):
            wrong.append((path, refused))
    assert [] == wrong


@grpc_and_http_proof
def test_hundred_thousand_entries_are_rejected_by_name(
    root: Caller, project: str, made: Any, name: str
) -> None:
    """Every list, map and mask of every request."""
    good, wrong = CALLS[name](project, made), []
    for path in many_fields(good):
        refused = tried(root, name, with_many(good, path, MANY))
        if not is_named(refused, path):
            wrong.append((path, refused))
    assert [] == wrong


@grpc_and_http
def test_unknown_enum_value_is_rejected_by_name(
    root: Caller, project: str, made: Any, name: str
) -> None:
    """Every enum of every request: too large, negative, and at the ends of 32 bits."""
    good, wrong = CALLS[name](project, made), []
    for path in enum_fields(good):
        for number in (99, -1, 2**31 - 1, -(2**31)):
            refused = tried(root, name, with_value(good, path, number))
            if not is_named(refused, path):
                wrong.append((path, number, refused))
    assert [] == wrong


@grpc_and_http
def test_invalid_time_is_rejected_by_name(root: Caller, project: str, made: Any, name: str) -> None:
    """Every timestamp and duration of every request: impossible years and nanos."""
    good, wrong = CALLS[name](project, made), []
    for path in time_fields(good):
        is_span = path[-1] in ("ttl", "overlap", "period", "dormant_after", "expires_within")
        for value in SPANS if is_span else MOMENTS:
            refused = tried(root, name, with_value(good, path, value))
            if not is_named(refused, path):
                wrong.append((path, value, refused))
    assert [] == wrong


@each_transport
def test_unusual_text_is_rejected_or_stored_exactly(
    server: ServerProcess, root: Caller, project: str
) -> None:
    """It is not normalized, cut or escaped; each log event stays one line."""
    logged = len(server.log_text())
    for text in TEXTS:
        request = key_request(project, purpose=text, labels={text[:63]: text})
        refused = root.outcome("CreateKey", request.SerializeToString())
        if refused is not None:
            assert {"purpose", "labels"} == refused.fields, ascii(text)
            continue
        access_key = root.ask(request).key.access_key
        for kept in (get_key(root, access_key), revoke(root, access_key=access_key, note=text).key):
            assert (text, {text[:63]: text}) == (kept.purpose, dict(kept.labels))
        assert text == kept.revoke_note
        listing = _keys.ListKeysRequest(
            project_id=project, filter=_keys.KeyFilter(labels={text[:63]: text})
        )
        assert {text} == {key.purpose for key in root.ask(listing).keys}
    lines = server.log_text()[logged:].splitlines()
    assert [] == [line for line in lines if LOG_LINE.fullmatch(line) is None]


@grpc_and_http
@pytest.mark.parametrize("why", NOT_UTF8)
def test_text_that_is_not_unicode_is_malformed(
    root: Caller, project: str, made: Any, why: str
) -> None:
    """In every text of every request, after valid bytes."""
    wrong = []
    for name, make in CALLS.items():
        good = make(project, made)
        for path in text_fields(good):
            body = with_value(good, path, "QQQQQQ").SerializeToString()
            broken = body.replace(b"QQQQQQ", NOT_UTF8[why].rjust(6, b"Q"))
            refused = root.outcome(name.split()[0], broken)
            # An unreadable message authenticates no caller.
            codes = {"UNAUTHENTICATED" if name == "GetProjectId" else "INVALID_ARGUMENT"}
            if refused is None or refused.code.name not in codes:
                wrong.append((name, path, refused))
    assert [] == wrong


def alterations(token: str) -> set[str]:
    """The token with each character changed, dropped and doubled, cut, and spelt otherwise."""
    altered = {token[:-1], token + "A", token + "=", token * 2, token.swapcase(), " " + token}
    for place, one in enumerate(token):
        head, tail = token[:place], token[place + 1 :]
        altered |= {head + other + tail for other in "A_-+/=z9\u00e9" if other != one}
        altered |= {head + tail, head + one + one + tail}
    return altered | {token.replace("-", "+"), token.replace("_", "/")} - {token}


@grpc_and_http
def test_page_token_is_bound_to_its_list(root: Caller, project: str) -> None:
    """A changed character or another caller, filter or method is rejected by name."""
    for _ in range(3):
        new_key(root, project)
    request = _keys.ListKeysRequest(project_id=project, page_size=1)
    token = root.ask(request).next_page_token
    other = new_operator(root, "*:*")
    for altered in sorted(alterations(token)):
        request.page_token = altered
        refused = root.refused(request)
        assert (altered, {"page_token"}) == (altered, refused.fields)
    request.page_token = token
    assert root.ask(request).keys
    elsewhere = new_project(root)
    for caller, wrong in (
        (other, request),
        (root, _keys.ListKeysRequest(project_id=elsewhere, page_token=token)),
        (root, _keys.ListKeysRequest(project_id=project, filter=TEST_KEYS, page_token=token)),
        (root, _projects.ListProjectsRequest(page_token=token)),
        (root, usage_service_pb2.GetUsageRequest(project_id=project, page_token=token)),
    ):
        refused = caller.refused(wrong)
        assert ("INVALID_ARGUMENT", {"page_token"}) == (refused.code.name, refused.fields)


@pytest.mark.parametrize("name", CALLS)
def test_rejected_long_text_is_not_cached(name: str) -> None:
    """Otherwise a caller could fill the memory through cached checks."""
    good = CALLS[name](*new_sample())
    check = CHECKS[type(good)]
    tracemalloc.start()
    try:
        for path in text_fields(good):
            before, _ = tracemalloc.get_traced_memory()
            for number in range(4):
                check(with_value(good, path, f"{number}".ljust(MIB, "x")))
            after, _ = tracemalloc.get_traced_memory()
            assert after - before < MIB, path
    finally:
        tracemalloc.stop()
