"""The fields of every request, found in the descriptors, and how one of them is set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar, cast

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from tests.service.callers import METHODS

M = TypeVar("M", bound=Message)
Path = tuple[str, ...]

OWN: Final = "keyauthority."  # the package whose messages are looked into
NEVER_MASKED: Final = frozenset({"update_mask", "access_key", "project_id", "etag"})


def empty(method: str) -> Any:
    """An empty request of a method."""
    return message_factory.GetMessageClass(METHODS[method].input_type)()


def places(
    shape: Descriptor, wanted: Callable[[FieldDescriptor], bool], before: Path = ()
) -> Iterator[Path]:
    """Yield the place of each wanted field in a message and in those that it holds."""
    for field in shape.fields:
        place, inner = (*before, field.name), field.message_type
        if wanted(field):
            yield place
        if inner is not None and inner.full_name.startswith(OWN) and not _is_map(field):
            yield from places(inner, wanted, place)


def text_fields(request: Message) -> Iterator[Path]:
    """Yield the place of each text in a message; a map or mask of texts is one place."""
    return places(cast("Descriptor", request.DESCRIPTOR), _is_text)


def enum_fields(request: Message) -> Iterator[Path]:
    """Yield the place of each enum."""
    return places(cast("Descriptor", request.DESCRIPTOR), lambda field: field.enum_type is not None)


def time_fields(request: Message) -> Iterator[Path]:
    """Yield the place of each moment and span."""
    return places(
        cast("Descriptor", request.DESCRIPTOR),
        lambda field: _name_of(field) in ("Timestamp", "Duration"),
    )


def many_fields(request: Message) -> Iterator[Path]:
    """Yield the place of each list, map and mask."""
    return places(
        cast("Descriptor", request.DESCRIPTOR),
        lambda field: field.is_repeated or _name_of(field) == "FieldMask",
    )


def _name_of(field: FieldDescriptor) -> str:
    return field.message_type.name if field.message_type is not None else ""


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _is_text(field: FieldDescriptor) -> bool:
    return (
        field.type == FieldDescriptor.TYPE_STRING
        or _is_map(field)
        or _name_of(field) == "FieldMask"
    )


def _holder(request: Any, path: Path) -> Any:
    """Return the message that holds a place; of a list the first, which is made if need be."""
    message = request
    for name in path[:-1]:
        message = getattr(message, name)
        if hasattr(message, "add"):
            message = message[0] if len(message) else message.add()
    return message


def _masked(request: Any, path: Path) -> None:
    """Let the mask of an update name the field."""
    if "update_mask" in request.DESCRIPTOR.fields_by_name and path[0] not in NEVER_MASKED:
        request.update_mask.paths[:] = [path[0]]


def with_value(request: M, path: Path, value: Any) -> M:
    """Return the request with one field set: a number, a text, or a message."""
    copy = type(request)()
    copy.CopyFrom(request)
    _masked(copy, path)
    message = _holder(copy, path)
    field = message.DESCRIPTOR.fields_by_name[path[-1]]
    held = getattr(message, field.name)
    if _name_of(field) == "FieldMask":
        held.paths[:] = [value]
    elif _is_map(field):
        held.clear()
        held[value] = value
    elif field.is_repeated:
        held[:] = [value]
    elif field.message_type is not None:
        held.CopyFrom(value)
    else:
        setattr(message, field.name, value)
    return copy


def with_many(request: M, path: Path, count: int) -> M:
    """Return the request with so many entries in a list, map or mask."""
    copy = type(request)()
    copy.CopyFrom(request)
    _masked(copy, path)
    message = _holder(copy, path)
    field = message.DESCRIPTOR.fields_by_name[path[-1]]
    held = getattr(message, field.name)
    if _name_of(field) == "FieldMask":
        held.paths[:] = ["purpose"] * count
    elif _is_map(field):
        held.clear()
        for number in range(count):
            held[f"{number}"] = ""
    elif field.message_type is not None:
        del held[:]
        held.extend([type(held.add())()] * count)
    elif field.enum_type is not None:
        held[:] = [1] * count
    else:
        held[:] = ["a:b"] * count
    return copy
