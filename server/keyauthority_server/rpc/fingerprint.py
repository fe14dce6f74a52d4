"""Request fingerprints, and updates reduced to the fields of their mask."""

from __future__ import annotations

from typing import Final, TypeVar

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

DEFAULT_PAGE_SIZE: Final = 100

_NOT_CONTENT: Final = frozenset({"request_id", "page_size", "page_token"})
_NEVER_MASKED: Final = frozenset({"access_key", "project_id", "update_mask", "etag"})

M = TypeVar("M", bound=Message)


def content_of(request: Message) -> bytes:
    """Return the fingerprint of a request: equal bytes for equal content.

    It does not cover the request_id, nor the page of a list.
    """
    content = type(request)()
    content.CopyFrom(request)
    for field, _ in request.ListFields():
        if field.name in _NOT_CONTENT:
            content.ClearField(field.name)
    return (
        request.DESCRIPTOR.full_name.encode()
        + b"\0"
        + content.SerializeToString(deterministic=True)
    )


def as_masked(request: M, mask: FieldMask) -> M:
    """Return an update with only the fields that its mask names; the others are ignored."""
    masked = type(request)()
    masked.CopyFrom(request)
    for field, _ in request.ListFields():
        if field.name not in _NEVER_MASKED and field.name not in mask.paths:
            masked.ClearField(field.name)
    return masked
