"""Parses requests in protobuf's JSON mapping, after a scan of the raw text.

The scan counts list items before any object is allocated for them, and is stricter than the
protobuf library: an unknown field is refused, and so is a field that occurs twice, in either
spelling or with escapes. Nesting that passes the scan is that of the message types, so neither
parser recurses deeper.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final, NamedTuple, NoReturn, cast

from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from keyauthority.errors import ErrorReason, KeyAuthorityError, bad_field, error
from keyauthority_server.rpc.field_rules import LIST_MAX, items_max, too_long

NAME_MAX: Final = 64  # characters of an unknown name in an error

_AS_SCALAR: Final = "google.protobuf."  # its messages in requests are strings in JSON
_MASK: Final = "google.protobuf.FieldMask"
# Commas and colons are skipped: the JSON parser checks them afterwards.
_TOKEN: Final = re.compile(
    rb"[ \t\r\n,:]*+(?:(?P<open>[{\[])|(?P<close>[}\]])"
    rb'|(?P<text>"(?:[^"\\]++|\\.)*+")|(?P<word>[^\s{}\[\],:"]++)|(?P<end>\Z))',
    re.DOTALL,
)


class _Field(NamedTuple):
    """A field as the scan sees it."""

    name: str
    """The name in the proto, as errors have it."""
    limit: int
    """The maximum number of items of a list, map or mask; 0 for a single value."""
    is_map: bool
    is_mask: bool
    inner: Mapping[bytes, _Field] | None
    """The fields of a message by both spellings of their names; None for a scalar."""


class _Object:
    """A JSON object that has not ended: a message, or a map if `entries` is set."""

    __slots__ = ("entries", "fields", "path", "pending", "seen")

    def __init__(self, fields: Mapping[bytes, _Field], path: str, entries: _Field | None) -> None:
        self.fields = fields
        self.path = path
        self.entries = entries
        self.seen: set[Any] = set()
        self.pending: _Field | None = None
        """The field whose value comes next."""


class _List:
    """A JSON array that has not ended."""

    __slots__ = ("count", "field", "path")

    def __init__(self, field: _Field, path: str) -> None:
        self.field = field
        self.path = path
        self.count = 0


class JsonReader:
    """Parses the requests of one type."""

    def __init__(self, request_type: type[Message]) -> None:
        self._type = request_type
        self._fields = _fields_of(request_type.DESCRIPTOR)

    def scan(self, body: bytes) -> JsonScan:
        """Return a scan, which must reach the end of the body before it is parsed."""
        return JsonScan(body, self._fields)

    def parse(self, body: bytes) -> Message:
        """Return the message of a scanned body. InvalidArgument if a value is malformed."""
        try:
            tree = _decoder.decode(body.decode())
        except ValueError:
            raise _not_json() from None
        message = self._type()
        if _fill(message, tree):
            return message
        if path := _culprit(self._type, tree, ""):
            raise bad_field(path, "malformed value")
        raise _not_json("two fields that exclude each other")


class JsonScan:
    """One pass over the tokens of a body. Raises InvalidArgument."""

    def __init__(self, body: bytes, fields: Mapping[bytes, _Field]) -> None:
        self._body = body
        self._root = fields
        self._at = 0
        self._open: list[_Object | _List] = []
        self._begun = False

    def steps(self, size: int) -> Iterator[None]:
        """Scan to the end; yields between two steps of some `size` bytes."""
        if not self._body.rstrip(b" \t\r\n").endswith(b"}"):
            raise _not_json()  # cut: known before the rest is scanned
        while self._at < len(self._body):
            self._run(min(self._at + size, len(self._body)))
            yield

    def _run(self, until: int) -> None:
        """Scan to this offset or the end of the token there."""
        body, match_token, at = self._body, _TOKEN.match, self._at
        while at < until:
            found = match_token(body, at)
            if found is None:
                raise _not_json()
            at, kind = found.end(), found.lastgroup
            if kind == "end":
                break
            within = self._open[-1] if self._open else None
            if kind == "close":
                self._close(within, found[0][-1:])
            elif within is None:
                self._begin(found["open"])
            elif isinstance(within, _Object) and within.pending is None:
                self._name(within, found["text"])
            else:
                self._value(within, found)
        if at >= len(body) and (self._open or not self._begun):
            raise _not_json()
        self._at = at

    def _begin(self, opening: bytes | None) -> None:
        if self._begun or opening != b"{":
            raise _not_json()
        self._begun = True
        self._open.append(_Object(self._root, "", None))

    def _close(self, within: _Object | _List | None, closing: bytes) -> None:
        expected = b"}" if isinstance(within, _Object) else b"]"
        if within is None or closing != expected:
            raise _not_json()
        if isinstance(within, _Object) and within.pending is not None:
            raise _not_json()
        self._open.pop()

    def _name(self, within: _Object, text: bytes | None) -> None:
        """Take the name of a member, and expect its value."""
        if text is None:
            raise _not_json()
        name = text[1:-1]
        if b"\\" in name:
            name = _unescaped(text)
        entries = within.entries
        field = entries or within.fields.get(name)
        if field is None:
            shown = name.decode(errors="replace")[:NAME_MAX]
            raise bad_field(within.path + shown, "unknown field")
        member = name if entries else field.name
        if member in within.seen:
            raise bad_field(
                within.path.rstrip(".") if entries else within.path + field.name, "given twice"
            )
        within.seen.add(member)
        if entries and len(within.seen) > entries.limit:
            raise too_long(within.path.rstrip("."), entries.limit)
        within.pending = field

    def _value(self, within: _Object | _List, found: re.Match[bytes]) -> None:
        """Take the value of a member or an item."""
        opening = found["open"]
        if isinstance(within, _List):
            field, path, is_item = within.field, f"{within.path}[{within.count}]", True
            within.count += 1
            if within.count > field.limit:
                raise too_long(within.path, field.limit)
        else:
            assert within.pending is not None  # noqa: S101 - for mypy: the caller has looked
            field, is_item = within.pending, within.entries is not None
            path = within.path + (field.name if not is_item else "")
            within.pending = None
        if opening is None:
            if field.is_mask and found[0].count(b",") >= field.limit:
                raise too_long(path, field.limit)
        elif opening == b"[":
            if is_item or not field.limit or field.is_map or field.is_mask:
                raise bad_field(path, "must not be a list")
            self._open.append(_List(field, path))
        elif field.is_map and not is_item:
            self._open.append(_Object({}, path + ".", field))
        elif field.inner is None or (field.limit and not is_item):
            raise bad_field(path, "must not be an object")
        else:
            self._open.append(_Object(field.inner, path + ".", None))


@cache
def _fields_of(descriptor: Descriptor) -> Mapping[bytes, _Field]:
    fields: dict[bytes, _Field] = {}
    for field in descriptor.fields:
        known = _field(field)
        fields[field.name.encode()] = fields[field.json_name.encode()] = known
    return fields


def _field(field: FieldDescriptor) -> _Field:
    inner = field.message_type
    is_map = inner is not None and inner.GetOptions().map_entry
    is_mask = inner is not None and inner.full_name == _MASK
    limit = items_max(field) if field.is_repeated else LIST_MAX if is_mask else 0
    if inner is not None and is_map:
        inner = inner.fields_by_name["value"].message_type
    is_scalar = inner is None or inner.full_name.startswith(_AS_SCALAR)
    return _Field(field.name, limit, is_map, is_mask, None if is_scalar else _fields_of(inner))


def _unescaped(text: bytes) -> bytes:
    try:
        name: str = json.loads(text)
        return name.encode()
    except ValueError:
        raise _not_json() from None


def _fill(message: Message, tree: Any) -> bool:
    """Set the fields of a message from parsed JSON; False if the library refuses a value."""
    try:
        json_format.ParseDict(tree, message)
    except (json_format.ParseError, ValueError, TypeError, AttributeError, ArithmeticError):
        return False  # without the library's text, which quotes the value: it may be a secret
    return True


def _culprit(message_type: type[Message], tree: Mapping[str, Any], path: str) -> str:
    """Return the path of the first field whose value the library refuses; empty if none is."""
    descriptor = message_type.DESCRIPTOR
    names = {field.json_name: field for field in descriptor.fields} | dict(
        descriptor.fields_by_name
    )
    for name, value in tree.items():
        if _fill(message_type(), {name: value}):
            continue
        field = names[name]
        here, inner = path + field.name, field.message_type
        if inner is not None and not inner.full_name.startswith(_AS_SCALAR):
            items = (
                {f"[{i}]": item for i, item in enumerate(value)}
                if isinstance(value, list)
                else {"": value}
            )
            for index, item in items.items():
                if isinstance(item, dict) and not inner.GetOptions().map_entry:
                    inner_type = message_factory.GetMessageClass(cast("Descriptor", inner))
                    if found := _culprit(inner_type, item, f"{here}{index}."):
                        return found
        return here
    return ""


def _not_json(reason: str = "not the JSON of this message") -> KeyAuthorityError:
    return error(ErrorReason.INVALID_MESSAGE, f"malformed request message: {reason}")


def _refuse_constant(_: str) -> NoReturn:
    raise ValueError("not JSON")  # NaN and infinities, which Python's parser otherwise takes


_decoder: Final = json.JSONDecoder(parse_constant=_refuse_constant)
