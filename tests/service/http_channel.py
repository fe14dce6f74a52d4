"""A connection over HTTP with the face of a `grpc.Channel`, so that tests run over both alike.

A request that parses is sent as JSON, any other as it is. An error becomes the `grpc.RpcError` that
the same call over gRPC ends with, rebuilt from nothing but the response.
"""

from __future__ import annotations

import base64
import http.client
import json
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import grpc
from google.protobuf import json_format, message_factory
from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status

from tests.service.callers import DETAILS, METHODS

JSON: Final = "application/json"
STREAM: Final = "application/connect+json"
END_OF_STREAM: Final = 2

CODES: Final = {code.name.lower(): code for code in grpc.StatusCode} | {
    "canceled": grpc.StatusCode.CANCELLED
}
STATUSES: Final = {
    "INVALID_ARGUMENT": 400, "UNAUTHENTICATED": 401, "PERMISSION_DENIED": 403, "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409, "ABORTED": 409, "RESOURCE_EXHAUSTED": 429, "FAILED_PRECONDITION": 400,
    "INTERNAL": 500, "UNIMPLEMENTED": 501, "UNAVAILABLE": 503, "DEADLINE_EXCEEDED": 504,
}  # fmt: skip
"""Connect's table of the statuses that the authority sends."""

Metadata = Sequence[tuple[str, str]]


class Response(NamedTuple):
    """A whole response."""

    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class HttpFailure(grpc.RpcError):
    """The error of a call, as gRPC would have it."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error["message"])
        self._code, self._message = CODES[error["code"]], error["message"]
        status = Status(code=self._code.value[0], message=self._message)
        for detail in error.get("details", ()):
            value = base64.b64decode(detail["value"] + "=" * (-len(detail["value"]) % 4))
            status.details.add(type_url=f"type.googleapis.com/{detail['type']}", value=value)
        self._status = status.SerializeToString()

    def code(self) -> grpc.StatusCode:
        """Return the code."""
        return self._code

    def details(self) -> str:
        """Return the message."""
        return str(self._message)

    def trailing_metadata(self) -> Any:
        """Return the whole status."""
        return ((DETAILS, self._status),)


class HttpChannel:
    """Connections to one HTTP address, one for each thread."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._own = threading.local()
        self._all: list[http.client.HTTPConnection] = []

    def post(
        self, path: str, body: bytes, metadata: Metadata = (), content_type: str = JSON
    ) -> http.client.HTTPResponse:
        """Send a request; return its response, to be read."""
        connection = self._connection()
        connection.putrequest("POST", path)
        for name, value in (*metadata, ("content-type", content_type)):
            connection.putheader(name, value)
        connection.putheader("content-length", str(len(body)))
        connection.endheaders(body)
        return connection.getresponse()

    def request(
        self, path: str, body: bytes, metadata: Metadata = (), content_type: str = JSON
    ) -> Response:
        """Send a request; return its whole response."""
        with self.post(path, body, metadata, content_type) as response:
            return Response(response.status, response.headers, response.read())

    def _connection(self) -> http.client.HTTPConnection:
        if not hasattr(self._own, "connection"):
            host, _, port = self.address.rpartition(":")
            self._own.connection = http.client.HTTPConnection(host.strip("[]"), int(port), 60)
            self._all.append(self._own.connection)
        connection: http.client.HTTPConnection = self._own.connection
        return connection

    def close(self) -> None:
        """Close all connections."""
        for connection in self._all:
            connection.close()

    def unary_unary(self, path: str) -> Any:
        """Return a call as `grpc.Channel` does."""
        method = METHODS[path.rpartition("/")[2]]

        def call(body: bytes, metadata: Metadata = (), timeout: float = 0) -> bytes:
            del timeout
            response = self.request(path, as_json(method, body), metadata)
            if response.status != 200:
                failure = HttpFailure(response.json)
                expected = STATUSES[failure.code().name]
                if b"ERROR_REASON_MESSAGE_TOO_LARGE" in response.body:
                    expected = 413
                assert expected == response.status
                raise failure
            answer = message_factory.GetMessageClass(method.output_type)()
            json_format.Parse(response.body, answer)
            return answer.SerializeToString()

        return call

    def unary_stream(self, path: str) -> Any:
        """Return a streaming call likewise."""
        method = METHODS[path.rpartition("/")[2]]

        def call(body: bytes, metadata: Metadata = (), timeout: float = 0) -> HttpStream:
            del timeout
            message = as_json(method, body)
            response = self.post(path, envelope(message), metadata, STREAM)
            assert (200, STREAM) == (response.status, response.headers["content-type"])
            return HttpStream(response, method)

        return call


class HttpStream:
    """The responses of a streaming call."""

    def __init__(self, response: http.client.HTTPResponse, method: Any) -> None:
        self._response = response
        self._type = message_factory.GetMessageClass(method.output_type)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        flags, message = read_envelope(self._response)
        if flags == END_OF_STREAM:
            end = json.loads(message)
            self.cancel()
            if "error" in end:
                raise HttpFailure(end["error"])
            raise StopIteration
        return json_format.Parse(message, self._type()).SerializeToString()

    def cancel(self) -> None:
        """Close the connection."""
        self._response.close()


def reason_of(failure: dict[str, Any]) -> str:
    """The reason of an error, from its debug text."""
    reasons = [one["debug"]["reason"] for one in failure["details"] if "reason" in one["debug"]]
    return str(reasons[0]).removeprefix("ERROR_REASON_")


def envelope(message: bytes, flags: int = 0) -> bytes:
    """Return a message as a stream has it."""
    return bytes([flags]) + len(message).to_bytes(4, "big") + message


def read_envelope(response: http.client.HTTPResponse) -> tuple[int, bytes]:
    """Return flags and content of the next message."""
    prefix = response.read(5)
    return prefix[0], response.read(int.from_bytes(prefix[1:], "big"))


def as_json(method: Any, body: bytes) -> bytes:
    """Return the JSON of a request; one that has none is sent as it is."""
    request = message_factory.GetMessageClass(method.input_type)()
    try:
        request.ParseFromString(body)
    except DecodeError:
        return body
    return json.dumps(_tree(request)).encode()


def _tree(message: Any) -> Any:
    """Return a message as JSON has it; an impossible time becomes an invalid text."""
    if message.DESCRIPTOR.full_name.startswith("google.protobuf."):
        try:
            return json_format.MessageToDict(message)
        except (json_format.SerializeToJsonError, ValueError):
            return str(message)
    tree: dict[str, Any] = {}
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            alone = type(message)()
            if field.is_repeated:
                getattr(alone, field.name).MergeFrom(value)
            else:
                setattr(alone, field.name, value)
            tree |= json_format.MessageToDict(alone)
        else:
            tree[field.json_name] = (
                [_tree(one) for one in value] if field.is_repeated else _tree(value)
            )
    return tree
