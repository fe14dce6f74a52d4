"""Parses requests, after counting the list items in their raw bytes.

A parser allocates an object for each item: two bytes of a message become some hundred bytes of
memory. The fields of a large message are therefore walked first, which stops at the first list that
is too long. The messages in it are then parsed one by one, in C: each is small, and freed again.
Messages of up to `SCAN_ABOVE` bytes are parsed at once, which takes less than a millisecond.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, Final, NamedTuple

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from keyauthority.errors import ErrorReason, InvalidArgument, KeyAuthorityError, error
from keyauthority_server.rpc.field_rules import items_max, too_long
from keyauthority_server.rpc.json_reader import JsonReader
from keyauthority_server.rpc_types import JsonBody
from keyauthority_server.services.time_slices import TimeSlices

SCAN_ABOVE: Final = 4096  # bytes; a Verify has some hundred
SCAN_STEP: Final = 16 * 1024  # bytes scanned at once, and the message they end in: below 2 ms
PARSED_MAX: Final = (
    64 * 1024
)  # bytes of a nested message that is parsed before its items are counted
OVERWRITTEN_MAX: Final = 256  # bytes of fields that are set again in a nested message

_SPARE_FIELDS: Final = 16  # unknown fields, of later versions of the API
_MASK: Final = "google.protobuf.FieldMask"  # errors name the mask, not its list `paths`
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


class _List(NamedTuple):
    """A list or map of a message type."""

    attribute: str
    name: str
    """The name in errors."""
    most: int
    """The maximum number of items."""


class _Nested(NamedTuple):
    """A nested message, or a list of them, with lists of its own."""

    name: str
    shape: _Shape
    is_list: bool


class _Shape(NamedTuple):
    """The lists of a message type, and its nested messages that have some, by their tags."""

    lists: Mapping[int, _List]
    nested: Mapping[int, _Nested]
    others: int
    """The maximum number of fields that are not items of a list."""
    parse: Callable[[bytes], Message]


class RequestReader:
    """Parses the requests of one type."""

    def __init__(self, request_type: type[Message]) -> None:
        self._parse = request_type.FromString
        self._shape = _shape_of(request_type.DESCRIPTOR)
        self._json = JsonReader(request_type)

    def read(self, body: bytes) -> Message:
        """Return the message. InvalidArgument if it is malformed or a list in it is too long."""
        for _ in self._scan(body):
            pass
        return self._parsed(body)

    async def read_in_slices(self, body: bytes, slices: TimeSlices) -> Message:
        """Read as `read` does, and let other calls run meanwhile if the body is large."""
        if len(body) <= SCAN_ABOVE:
            return self.read(body)
        with slices.begin(queued=True) as mine:
            await mine.pause()
            for _ in self._scan(body):
                await mine.pause()
            if isinstance(body, JsonBody):  # up to half a second, in Python
                return await asyncio.to_thread(self._parsed, body)
            return self._parsed(body)

    def _scan(self, body: bytes) -> Iterator[None]:
        """Scan a body before it is parsed; yields between two steps. Raises InvalidArgument."""
        if isinstance(body, JsonBody):
            return self._json.scan(body).steps(SCAN_STEP)
        return _scan(body, self._shape) if len(body) > SCAN_ABOVE else iter(())

    def _parsed(self, body: bytes) -> Message:
        if isinstance(body, JsonBody):
            return self._json.parse(body)
        try:
            return self._parse(body)
        except DecodeError:
            raise malformed() from None

    def read_or_none(self, body: bytes) -> Message | None:
        """Return the message; None if `read` raises."""
        try:
            return self.read(body)
        except KeyAuthorityError:
            return None

    def read_with_secret(self, body: bytes) -> Message | None:
        """Return the message; None if it is malformed, so that it carries no secret.

        InvalidArgument if a field of JSON is invalid: its sender can correct it.
        """
        try:
            return self.read(body)
        except InvalidArgument as failure:
            if isinstance(body, JsonBody) and failure.fields:
                raise
            return None


def malformed() -> KeyAuthorityError:
    """Return the error for bytes that are not a message of the request's type."""
    return error(ErrorReason.INVALID_MESSAGE, "malformed request message")


@cache
def _shape_of(descriptor: Descriptor) -> _Shape:
    lists: dict[int, _List] = {}
    nested: dict[int, _Nested] = {}
    for field in descriptor.fields:
        tag, inner = field.number << 3 | _LENGTH, field.message_type
        if field.is_repeated:
            name = "" if descriptor.full_name == _MASK else field.name
            lists[tag] = _List(field.name, name, items_max(field))
        if inner is not None:
            shape = _shape_of(inner)
            if shape.lists or shape.nested:
                nested[tag] = _Nested(field.name, shape, field.is_repeated)
    others = len(descriptor.fields) + _SPARE_FIELDS
    parse = message_factory.GetMessageClass(descriptor).FromString
    return _Shape(lists, nested, others, parse)


class _Part(NamedTuple):
    """A message within a body."""

    shape: _Shape
    path: str
    """Prefixes the names of its fields in errors."""
    start: int
    stop: int


def _scan(body: bytes, shape: _Shape) -> Iterator[None]:
    try:
        parts = list(_small_parts(body, _Part(shape, "", 0, len(body))))
        for check in (_check_structure, _check_contents):  # damage is found soonest
            end = 0
            for part in parts:
                if part.stop > end:
                    yield
                    end = part.stop + SCAN_STEP
                check(body, part)
    except (IndexError, DecodeError):
        raise malformed() from None


def _small_parts(body: bytes, whole: _Part) -> Iterator[_Part]:
    """Yield the messages within a message that can be parsed, after counting those around them."""
    for tag, index, start, stop in _outline(body, whole):
        name, shape, is_list = whole.shape.nested[tag]
        path = f"{whole.path}{name}[{index}]." if is_list else f"{whole.path}{name}."
        part = _Part(shape, path, start, stop)
        if stop - start > PARSED_MAX:
            yield from _small_parts(body, part)
        else:
            yield part


def _outline(body: bytes, whole: _Part) -> list[tuple[int, int, int, int]]:
    """Count the fields of a message; return tag, index, start and end of each message in it.

    InvalidArgument if they are too many, IndexError if it is malformed.
    """
    (lists, nested, others, _), path, at, stop = whole
    left, found = {tag: each.most for tag, each in lists.items()}, []
    while at < stop:
        tag = body[at]
        at += 1
        if tag > 0x7F:
            tag, at = _varint(body, at - 1)
        rest = left.get(tag)
        if rest:
            left[tag] = rest - 1
        elif rest is not None:
            raise too_long((path + lists[tag].name).rstrip("."), lists[tag].most)
        elif others:
            others -= 1
        else:
            raise malformed()
        kind = tag & 7
        if kind == _LENGTH:
            length = body[at]
            at += 1
            if length > 0x7F:
                length, at = _varint(body, at - 1)
            start, at = at, at + length
            if length and tag in nested:
                found.append((tag, lists[tag].most - rest if rest else 0, start, at))
        elif kind == _VARINT:
            while body[at] > 0x7F:
                at += 1
            at += 1
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:  # groups, which proto3 does not have
            raise IndexError
    if at > stop:
        raise IndexError
    return found


def _check_structure(body: bytes, part: _Part) -> None:
    """Raise DecodeError if a message is cut or damaged; the parser knows none of its fields."""
    Empty.FromString(body[part.start : part.stop])


def _check_contents(body: bytes, part: _Part) -> None:
    """Parse a message, and raise InvalidArgument if it has too many items or other fields."""
    message = part.shape.parse(body[part.start : part.stop])
    _check_lists(message, part.shape, part.path)
    if part.stop - part.start - message.ByteSize() > OVERWRITTEN_MAX:
        raise malformed()


def _check_lists(message: Any, shape: _Shape, path: str) -> None:
    for attribute, name, most in shape.lists.values():
        if len(getattr(message, attribute)) > most:
            raise too_long((path + name).rstrip("."), most)
    if len(UnknownFieldSet(message)) > _SPARE_FIELDS:
        raise malformed()
    for name, inner, is_list in shape.nested.values():
        if is_list:
            for index, item in enumerate(getattr(message, name)):
                _check_lists(item, inner, f"{path}{name}[{index}].")
        elif message.HasField(name):
            _check_lists(getattr(message, name), inner, f"{path}{name}.")


def _varint(body: bytes, at: int) -> tuple[int, int]:
    """Return the number at an offset, and the offset after it."""
    byte = body[at]
    if byte < 0x80:
        return byte, at + 1
    value, shift = byte & 0x7F, 7
    while True:
        at += 1
        byte = body[at]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at + 1
        shift += 7
        if shift > 63:
            raise IndexError
