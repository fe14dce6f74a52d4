"""What servicers make of their requests before they are use cases."""

from __future__ import annotations

from typing import Final, TypeVar

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

DEFAULT_PAGE_SIZE: Final = 100

_ASIDE: Final = frozenset({"request_id", "page_size", "page_token"})
_BESIDES_THE_MASK: Final = frozenset({"access_key", "project_id", "update_mask", "etag"})

M = TypeVar("M", bound=Message)


def content_of(request: Message) -> bytes:
    """Return bytes that tell what this request asks for from what any other does.

    The same request again has them, under whatever request_id, as has each page of one list.
    """
    content = type(request)()
    content.CopyFrom(request)
    for field, _ in request.ListFields():
        if field.name in _ASIDE:
            content.ClearField(field.name)
    return (
        request.DESCRIPTOR.full_name.encode()
        + b"\0"
        + content.SerializeToString(deterministic=True)
    )


def as_masked(request: M, mask: FieldMask) -> M:
    """Return an update without the fields that its mask does not name: they are not even read."""
    masked = type(request)()
    masked.CopyFrom(request)
    for field, _ in request.ListFields():
        if field.name not in _BESIDES_THE_MASK and field.name not in mask.paths:
            masked.ClearField(field.name)
    return masked
