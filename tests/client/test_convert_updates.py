"""Conversion of UpdateKey, RotateKey and UpdateProject: unset differs from zero."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given

from keyauthority import convert
from keyauthority.errors import ErrorReason, InvalidArgument
from keyauthority.model import UNRESTRICTED, Restrictions
from keyauthority.requests import KeyUpdate, ProjectUpdate, Rotation
from keyauthority.results import RotatedKey, WrittenKey, WrittenProject
from keyauthority.v1 import key_pb2
from keyauthority.v1.key_authority_service_pb2 import (
    RotateKeyRequest,
    RotateKeyResponse,
    UpdateKeyRequest,
    UpdateKeyResponse,
)
from keyauthority.v1.project_service_pb2 import UpdateProjectRequest, UpdateProjectResponse
from tests.client.records import CREATED_PROJECT, KEY, OTHER_KEY, ROTATED, WRITTEN_KEY
from tests.client.strategies import key_updates, project_updates, rotations


@given(key_updates)
def test_update_key_request_roundtrips(update: KeyUpdate) -> None:
    """Every field survives, also those outside of the mask."""
    sent = UpdateKeyRequest.FromString(convert.key_update_to_proto(update).SerializeToString())

    assert convert.key_update_from_proto(sent) == update


@given(project_updates)
def test_update_project_request_roundtrips(update: ProjectUpdate) -> None:
    """Every field survives."""
    sent = UpdateProjectRequest.FromString(
        convert.project_update_to_proto(update).SerializeToString()
    )

    assert convert.project_update_from_proto(sent) == update


@given(rotations)
def test_rotate_request_roundtrips(rotation: Rotation) -> None:
    """Every field survives."""
    sent = RotateKeyRequest.FromString(convert.rotation_to_proto(rotation).SerializeToString())

    assert convert.rotation_from_proto(sent) == rotation


def test_equal_updates_have_equal_bytes() -> None:
    """The paths of a mask are sorted."""
    paths = ["purpose", "labels", "quota", "disabled"]
    sent = {
        convert.key_update_to_proto(
            KeyUpdate(access_key="KA", paths=frozenset(order))
        ).SerializeToString()
        for order in (paths, reversed(paths))
    }

    assert len(sent) == 1


def test_unset_overlap_differs_from_zero() -> None:
    """Unset means 24 hours, 0 ends the old key at once."""
    unset = convert.rotation_to_proto(Rotation(access_key="KA"))
    at_once = convert.rotation_to_proto(Rotation(access_key="KA", overlap=timedelta(0)))

    assert convert.rotation_from_proto(unset).overlap is None
    assert convert.rotation_from_proto(at_once).overlap == timedelta(0)


def test_unset_restrictions_clear_them() -> None:
    """If the mask names them and none is sent."""
    sent = UpdateKeyRequest(access_key="KA")
    sent.update_mask.paths.append("restrictions")

    update = convert.key_update_from_proto(sent)

    assert (update.paths, update.restrictions) == (frozenset({"restrictions"}), UNRESTRICTED)
    assert update.restrictions == Restrictions()


def test_update_key_response_roundtrips() -> None:
    """Every field survives."""
    written: WrittenKey = WRITTEN_KEY
    sent = UpdateKeyResponse.FromString(convert.written_key_to_proto(written).SerializeToString())

    assert convert.written_key_from_proto(sent) == written


def test_rotate_response_roundtrips() -> None:
    """Successor, token and old key survive."""
    sent = RotateKeyResponse.FromString(convert.rotated_key_to_proto(ROTATED).SerializeToString())

    rotated: RotatedKey = convert.rotated_key_from_proto(sent)

    assert rotated == ROTATED
    assert rotated.secret_key.reveal() == ROTATED.secret_key.reveal()
    assert (rotated.previous.access_key, rotated.key.access_key) == (
        KEY.access_key,
        OTHER_KEY.access_key,
    )


def test_update_project_response_roundtrips() -> None:
    """Every field survives."""
    written: WrittenProject = CREATED_PROJECT
    sent = UpdateProjectResponse.FromString(
        convert.written_project_to_proto(written).SerializeToString()
    )

    assert convert.written_project_from_proto(sent) == written


_BAD_TIME = Timestamp(seconds=2**62)
_BAD_SPAN = Duration(seconds=2**62)
_BAD_LIMIT = key_pb2.RateLimit(limit=1, period=_BAD_SPAN)


@pytest.mark.parametrize(
    ("read", "proto", "field"),
    [
        (convert.key_update_from_proto, UpdateKeyRequest(expire_time=_BAD_TIME), "expire_time"),
        (
            convert.key_update_from_proto,
            UpdateKeyRequest(rate_limit=_BAD_LIMIT),
            "rate_limit.period",
        ),
        (convert.key_update_from_proto, UpdateKeyRequest(quota=key_pb2.Quota()), "quota.period"),
        (
            convert.project_update_from_proto,
            UpdateProjectRequest(rate_limit=_BAD_LIMIT),
            "rate_limit.period",
        ),
        (convert.rotation_from_proto, RotateKeyRequest(overlap=_BAD_SPAN), "overlap"),
        (convert.rotation_from_proto, RotateKeyRequest(expire_time=_BAD_TIME), "expire_time"),
    ],
)
def test_unrepresentable_value_names_its_field(
    read: Callable[[Any], object], proto: object, field: str
) -> None:
    """A request is never read as if the field were unset."""
    with pytest.raises(InvalidArgument) as refused:
        read(proto)

    assert refused.value.reason is ErrorReason.INVALID_FIELD
    assert [violation.field for violation in refused.value.fields] == [field]
