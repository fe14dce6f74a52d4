"""Messages as Connect sends them: JSON or protobuf, plain or in envelopes."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import Awaitable, Callable
from typing import Any, Final

from google.protobuf import descriptor_pool, json_format, message_factory
from google.protobuf.message import Message

from keyauthority_server.rpc_types import JsonBody
from keyauthority_server.transport.http.errors import bad_envelope, bad_gzip, body_too_large
from keyauthority_server.transport.limits import MESSAGE_MAX

LARGE: Final = 16 * 1024  # bytes that take 10 ms to convert, which a thread then does
END_OF_STREAM: Final = 2

_PREFIX: Final = 5  # bytes of an envelope before its message: flags and length
_GZIP: Final = 31  # zlib's number for the format

Encode = Callable[[bytes], Awaitable[bytes]]


def json_encoder(service: str, method: str, turn: asyncio.Semaphore) -> Encode:
    """Return the conversion of a method's serialized responses to JSON.

    A large response waits for its turn, so that only some are converted at a time.
    """
    described: Any = descriptor_pool.Default().FindServiceByName(service)
    message_type = message_factory.GetMessageClass(described.methods_by_name[method].output_type)

    async def encode(response: bytes) -> bytes:
        if len(response) <= LARGE:
            return _to_json(message_type, response)
        async with turn:
            return await asyncio.to_thread(_to_json, message_type, response)

    return encode


def _to_json(message_type: type[Message], response: bytes) -> bytes:
    tree = json_format.MessageToDict(
        message_type.FromString(response), always_print_fields_with_no_presence=True
    )
    return json.dumps(tree, ensure_ascii=False, separators=(",", ":")).encode()


def envelope(message: bytes, flags: int = 0) -> bytes:
    """Return one message of a stream."""
    return bytes([flags]) + len(message).to_bytes(4, "big") + message


async def opened(body: bytes, *, gzip: bool) -> JsonBody:
    """Return the only message of a stream of requests. HttpError unless it is one."""
    flags, length = body[:1], int.from_bytes(body[1:_PREFIX], "big")
    if len(body) != _PREFIX + length or flags not in (b"\0", b"\1"):
        raise bad_envelope()
    message = body[_PREFIX:]
    if flags == b"\0":
        return JsonBody(message)
    if not gzip:
        raise bad_envelope()
    return JsonBody(await inflated(message))


async def inflated(body: bytes) -> bytes:
    """Return the content of a gzip body. HttpError if it is malformed or too large."""
    if len(body) <= LARGE:
        return _inflated(body)
    return await asyncio.to_thread(_inflated, body)


def _inflated(body: bytes) -> bytes:
    if not body:  # as clients send an empty message
        return body
    inflater = zlib.decompressobj(_GZIP)
    try:
        content = inflater.decompress(body, MESSAGE_MAX + 1)
    except zlib.error:
        raise bad_gzip() from None
    if len(content) > MESSAGE_MAX:
        raise body_too_large()
    if not inflater.eof or inflater.unused_data:
        raise bad_gzip()
    return content
