"""Parses requests, after counting the list items in their raw bytes.

A parser allocates an object for each item: two bytes of a message become some hundred bytes of
memory. The scan allocates none and stops at the first list that is too long; the largest message
that passes takes it some 70 ms. Messages of up to `SCAN_ABOVE` bytes are not scanned: parsing any
of them takes less than a millisecond.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Final, NamedTuple

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message

from keyauthority.errors import ErrorReason, FieldViolation, KeyAuthorityError, error
from keyauthority_server.rpc.field_rules import BATCH_MAX, LABELS_MAX, LIST_MAX

SCAN_ABOVE: Final = 4096  # bytes; a Verify has some hundred

_SPARE_FIELDS: Final = 16  # unknown fields, of later versions of the API
_BATCHES: Final = frozenset({"requests", "rows"})
_MASK: Final = "google.protobuf.FieldMask"  # errors name the mask, not its list `paths`
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


class _Shape(NamedTuple):
    """The lists of a message type."""

    limits: Mapping[int, tuple[str, int]]
    """Name and maximum number of items of each list, by field number."""
    nested: Mapping[int, tuple[str, _Shape]]
    """Name and shape of nested messages with lists, by field number."""
    fields: int
    """The maximum number of fields, with those of nested messages."""


class RequestReader:
    """Parses the requests of one type."""

    def __init__(self, request_type: type[Message]) -> None:
        self._parse = request_type.FromString
        self._shape = _shape_of(request_type.DESCRIPTOR)

    def read(self, body: bytes) -> Message:
        """Return the message. InvalidArgument if it is malformed or a list in it is too long."""
        if len(body) > SCAN_ABOVE:
            try:
                _Scan(body, self._shape.fields).message(0, len(body), self._shape, "")
            except IndexError:
                raise malformed() from None
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


def malformed() -> KeyAuthorityError:
    """Return the error for bytes that are not a message of the request's type."""
    return error(ErrorReason.INVALID_MESSAGE, "malformed request message")


@cache
def _shape_of(descriptor: Descriptor) -> _Shape:
    limits: dict[int, tuple[str, int]] = {}
    nested: dict[int, tuple[str, _Shape]] = {}
    total = len(descriptor.fields) + _SPARE_FIELDS
    for field in descriptor.fields:
        inner = field.message_type
        most = 1
        if field.is_repeated:
            is_map = inner is not None and inner.GetOptions().map_entry
            most = LABELS_MAX if is_map else BATCH_MAX if field.name in _BATCHES else LIST_MAX
            name = "" if descriptor.full_name == _MASK else field.name
            limits[field.number] = (name, most)
            total += most
        if inner is not None:
            shape = _shape_of(inner)
            if shape.limits or shape.nested:
                nested[field.number] = (field.name, shape)
                total += most * shape.fields
    return _Shape(limits, nested, total)


class _Scan:
    """One pass over the fields of a message. Raises IndexError for malformed bytes."""

    def __init__(self, body: bytes, fields: int) -> None:
        self._body = body
        self._left = fields

    def message(self, at: int, end: int, shape: _Shape, path: str) -> None:
        """Count the items between two offsets; `path` prefixes the names of fields."""
        body, limits, nested = self._body, shape.limits, shape.nested
        counts = dict.fromkeys(limits, 0)
        while at < end:
            if not self._left:
                raise malformed()
            self._left -= 1
            tag = body[at]
            at += 1
            if tag > 0x7F:
                tag, at = _varint(body, at - 1)
            kind, number = tag & 7, tag >> 3
            if number in counts:
                counts[number] += 1
                name, most = limits[number]
                if counts[number] > most:
                    raise _too_long((path + name).rstrip("."), most)
            if kind == _LENGTH:
                length, at = _varint(body, at)
                if number in nested and length:
                    if at + length > end:
                        raise IndexError
                    name, inner = nested[number]
                    index = f"[{counts[number] - 1}]" if number in counts else ""
                    self.message(at, at + length, inner, f"{path}{name}{index}.")
                at += length
            elif kind == _VARINT:
                while body[at] > 0x7F:
                    at += 1
                at += 1
            elif kind in (_FIXED64, _FIXED32):
                at += 8 if kind == _FIXED64 else 4
            else:  # groups, which proto3 does not have
                raise IndexError
        if at != end:
            raise IndexError


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


def _too_long(field: str, most: int) -> KeyAuthorityError:
    description = f"from 1 to {most}" if field == "requests" else f"at most {most}"
    violation = FieldViolation(field, description)
    return error(ErrorReason.INVALID_FIELD, f"{field}: {description}", fields=[violation])
