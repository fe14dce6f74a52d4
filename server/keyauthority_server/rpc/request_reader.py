"""Parses requests, after counting the list items in their raw bytes.

A parser allocates an object for each item: two bytes of a message become some hundred bytes of
memory. The scan allocates none and stops at the first list that is too long; the largest message
that passes takes it some 70 ms. Messages of up to `SCAN_ABOVE` bytes are not scanned: parsing any
of them takes less than a millisecond.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import cache
from typing import Final, NamedTuple

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message

from keyauthority.errors import ErrorReason, InvalidArgument, KeyAuthorityError, error
from keyauthority_server.rpc.field_rules import items_max, too_long
from keyauthority_server.rpc.json_reader import JsonReader, JsonScan
from keyauthority_server.rpc_types import JsonBody
from keyauthority_server.services.time_slices import TimeSlices

SCAN_ABOVE: Final = 4096  # bytes; a Verify has some hundred
SCAN_STEP: Final = 16 * 1024  # bytes scanned at once, and the field they end in: some 2 ms

_SPARE_FIELDS: Final = 16  # unknown fields, of later versions of the API
_MASK: Final = "google.protobuf.FieldMask"  # errors name the mask, not its list `paths`
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


class _Shape(NamedTuple):
    """The lists of a message type."""

    limits: Mapping[int, tuple[str, int]]
    """Name and maximum number of items of each list, by field number."""
    nested: Mapping[int, tuple[str, _Shape]]
    """Name and shape of nested messages with lists, by field number."""
    others: int
    """The maximum number of fields that are not items of a list."""


class RequestReader:
    """Parses the requests of one type."""

    def __init__(self, request_type: type[Message]) -> None:
        self._parse = request_type.FromString
        self._shape = _shape_of(request_type.DESCRIPTOR)
        self._json = JsonReader(request_type)

    def read(self, body: bytes) -> Message:
        """Return the message. InvalidArgument if it is malformed or a list in it is too long."""
        if scan := self._scan(body):
            scan.run(len(body))
        return self._parsed(body)

    async def read_in_slices(self, body: bytes, slices: TimeSlices) -> Message:
        """Read as `read` does, and let other calls run meanwhile if the body is large."""
        if len(body) <= SCAN_ABOVE:
            return self.read(body)
        scan, end = self._scan(body), 0
        with slices.begin(queued=True) as mine:
            while scan and end < len(body):
                await mine.pause()
                end = scan.run(min(end + SCAN_STEP, len(body)))
            await mine.pause()
            if isinstance(body, JsonBody):  # up to half a second, in Python
                return await asyncio.to_thread(self._parsed, body)
            return self._parsed(body)

    def _scan(self, body: bytes) -> _Scan | JsonScan | None:
        """Return the scan that the body needs before it is parsed."""
        if isinstance(body, JsonBody):
            return self._json.scan(body)
        return _Scan(body, self._shape) if len(body) > SCAN_ABOVE else None

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
    limits: dict[int, tuple[str, int]] = {}
    nested: dict[int, tuple[str, _Shape]] = {}
    for field in descriptor.fields:
        inner = field.message_type
        if field.is_repeated:
            name = "" if descriptor.full_name == _MASK else field.name
            limits[field.number] = (name, items_max(field))
        if inner is not None:
            shape = _shape_of(inner)
            if shape.limits or shape.nested:
                nested[field.number] = (field.name, shape)
    return _Shape(limits, nested, len(descriptor.fields) + _SPARE_FIELDS)


class _Counts:
    """The fields of one message so far."""

    __slots__ = ("items", "others")

    def __init__(self, shape: _Shape) -> None:
        self.items = dict.fromkeys(shape.limits, 0)
        self.others = shape.others
        """How many more that are not items may come."""


class _Scan:
    """One pass over the fields of a message. Raises InvalidArgument."""

    def __init__(self, body: bytes, shape: _Shape) -> None:
        self._body = body
        self._shape = shape
        self._at = 0
        self._counts = _Counts(shape)

    def run(self, until: int) -> int:
        """Scan to this offset or the end of the field there; return the offset reached."""
        end = len(self._body)
        try:
            self._at = self._fields(self._at, until, end, self._shape, "", self._counts)
        except IndexError:
            raise malformed() from None
        return self._at

    def _fields(
        self, at: int, until: int, end: int, shape: _Shape, path: str, counted: _Counts
    ) -> int:
        """Count the items up to `until` of a message that ends at `end`.

        `path` prefixes the names of fields.
        """
        body, limits, nested = self._body, shape.limits, shape.nested
        counts = counted.items
        while at < until:
            tag = body[at]
            at += 1
            if tag > 0x7F:
                tag, at = _varint(body, at - 1)
            kind, number = tag & 7, tag >> 3
            if number in counts:
                counts[number] += 1
                name, most = limits[number]
                if counts[number] > most:
                    raise too_long((path + name).rstrip("."), most)
            elif counted.others:
                counted.others -= 1
            else:
                raise malformed()
            if kind == _LENGTH:
                length, at = _varint(body, at)
                if number in nested and length:
                    if at + length > end:
                        raise IndexError
                    name, inner = nested[number]
                    index = f"[{counts[number] - 1}]" if number in counts else ""
                    stop, below = at + length, f"{path}{name}{index}."
                    self._fields(at, stop, stop, inner, below, _Counts(inner))
                at += length
            elif kind == _VARINT:
                while body[at] > 0x7F:
                    at += 1
                at += 1
            elif kind in (_FIXED64, _FIXED32):
                at += 8 if kind == _FIXED64 else 4
            else:  # groups, which proto3 does not have
                raise IndexError
        if at > end:
            raise IndexError
        return at


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
