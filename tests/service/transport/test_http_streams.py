"""WatchChanges over HTTP: Connect's envelopes, plain and compressed, and their end."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any, Final, cast

import grpc
import pytest

from tests.conftest import HTTP_SERVER
from tests.service.callers import MIB, Caller, new_project
from tests.service.http_channel import (
    END_OF_STREAM,
    STREAM,
    HttpChannel,
    envelope,
    read_envelope,
    reason_of,
)
from tests.service.processes import ServerProcess

pytestmark = pytest.mark.parametrize("server", [HTTP_SERVER], indirect=True)

WATCH: Final = "/keyauthority.v1.KeyAuthorityService/WatchChanges"
PROTO: Final = "application/proto"


@pytest.fixture
def http(channel: grpc.Channel) -> HttpChannel:
    """The connection of the callers."""
    return cast("HttpChannel", channel)


def watch(
    http: HttpChannel, metadata: Any, body: bytes, kind: str = STREAM
) -> Iterator[tuple[int, Any]]:
    """The messages of a stream: flags and content."""
    with http.post(WATCH, body, metadata, kind) as response:
        assert (200, STREAM) == (response.status, response.headers["content-type"])
        flags = 0
        while flags != END_OF_STREAM:
            flags, message = read_envelope(response)
            yield flags, json.loads(message)


def test_stream_has_envelopes(server: ServerProcess, http: HttpChannel, root: Caller) -> None:
    """Plain and compressed requests; the changes come as they are made."""
    request, gzipped = b'{"fromRevision": "0"}', ("connect-content-encoding", "gzip")
    for body, metadata in (
        (envelope(request), server.metadata),
        (envelope(gzip.compress(request), 1), (*server.metadata, gzipped)),
        (envelope(request), (*server.metadata, gzipped)),
    ):
        messages = watch(http, metadata, body)
        flags, first = next(messages)
        assert (0, True) == (flags, bool(first["changes"]))
        project = new_project(root)
        assert any(project in json.dumps(message) for _, message in messages)
        messages.close()  # type: ignore[attr-defined]  # a generator


STREAM_ERRORS: Final = {
    "no credential": (envelope(b"{}"), False, "unauthenticated"),
    "unknown field": (envelope(b'{"bogus": 1}'), True, "invalid_argument"),
    "no envelope": (b"{}", True, "invalid_argument"),
    "nothing": (b"", True, "invalid_argument"),
    "length that lies": (b"\0\0\0\0\x09{}", True, "invalid_argument"),
    "two messages": (envelope(b"{}") * 2, True, "invalid_argument"),
    "unknown flag": (envelope(b"{}", 4), True, "invalid_argument"),
    "end of stream": (envelope(b"{}", 2), True, "invalid_argument"),
    "compressed without a header": (envelope(gzip.compress(b"{}"), 1), True, "invalid_argument"),
    "five mebibytes": (envelope(b"x" * 5 * MIB), True, "resource_exhausted"),
    "absent project": (
        envelope(b'{"projectId": "6c9a4b0e-5d5f-4a53-9f0e-3f6f6c1d2e3a"}'), True, "not_found",
    ),
}  # fmt: skip


@pytest.mark.parametrize("why", STREAM_ERRORS)
def test_error_of_a_stream_is_in_its_last_message(
    server: ServerProcess, http: HttpChannel, why: str
) -> None:
    """The status is 200 all the same."""
    body, known, code = STREAM_ERRORS[why]
    ((flags, end),) = watch(http, server.metadata if known else (), body)
    assert (END_OF_STREAM, code) == (flags, end["error"]["code"])
    assert reason_of(end["error"])


def test_stream_ends_at_its_timeout(server: ServerProcess, http: HttpChannel) -> None:
    """With messages before, and deadline_exceeded in the last one."""
    metadata = (*server.metadata, ("connect-timeout-ms", "700"))
    *messages, (flags, end) = watch(http, metadata, envelope(b"{}"))
    assert messages
    assert (END_OF_STREAM, "deadline_exceeded") == (flags, end["error"]["code"])


@pytest.mark.parametrize("kind", ["application/connect+proto", "application/json", PROTO])
def test_stream_is_json_only(server: ServerProcess, http: HttpChannel, kind: str) -> None:
    """Other content types are 415."""
    response = http.request(WATCH, envelope(b"{}"), server.metadata, kind)
    assert (415, STREAM) == (response.status, response.headers["accept-post"])
