"""Conversion of records and enums, and rejected values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from typing import Any

import pytest
from google.protobuf.descriptor import EnumDescriptor
from hypothesis import given

from keyauthority import convert
from keyauthority.convert import enums
from keyauthority.model import Change, Key, KeyKind, KeyMode, KeyState, Project
from keyauthority.v1 import key_authority_service_pb2 as service_pb2
from keyauthority.v1 import key_pb2, usage_service_pb2
from tests.client.strategies import at, changes, keys, projects


@given(keys)
def test_key_roundtrips(key: Key) -> None:
    """A key survives the wire in every field, its bytes included."""
    sent = key_pb2.Key.FromString(convert.key_to_proto(key).SerializeToString())

    assert convert.key_from_proto(sent) == key


@given(projects)
def test_project_roundtrips(project: Project) -> None:
    """A project survives the wire in every field."""
    sent = key_pb2.Project.FromString(convert.project_to_proto(project).SerializeToString())

    assert convert.project_from_proto(sent) == project


@given(changes)
def test_change_roundtrips(change: Change) -> None:
    """A change survives the wire with all of its records."""
    sent = service_pb2.Change.FromString(convert.change_to_proto(change).SerializeToString())

    assert convert.change_from_proto(sent) == change


def _key() -> Key:
    return Key(
        access_key="KA000000000000000000",
        project_id="p",
        mode=KeyMode.TEST,
        kind=KeyKind.SECRET,
        create_time=at(0),
        update_time=at(1),
        revision=7,
    )


def test_key_fields_match_the_proto() -> None:
    """A field added to one side only is noticed."""
    fields = {*Key.__dataclass_fields__, "etag"}

    assert {field.name for field in key_pb2.Key.DESCRIPTOR.fields} == fields


def test_given_state_precedes_the_records_state() -> None:
    """The server states the current state, independent of the record."""
    key = replace(_key(), state=KeyState.ACTIVE)

    assert convert.key_to_proto(key, KeyState.EXPIRED).state == key_pb2.KEY_STATE_EXPIRED
    assert convert.key_to_proto(key).state == key_pb2.KEY_STATE_ACTIVE
    assert convert.key_to_proto(_key()).state == key_pb2.KEY_STATE_UNSPECIFIED


def test_etag_is_kept() -> None:
    """The etag on the wire is the record's own."""
    assert convert.key_to_proto(_key()).etag == _key().etag


@pytest.mark.parametrize("field", ["mode", "kind"])
@pytest.mark.parametrize("number", [0, 99, -1])
def test_key_with_unknown_mode_or_kind_is_refused(field: str, number: int) -> None:
    """Such a key cannot be evaluated."""
    proto = convert.key_to_proto(_key())
    setattr(proto, field, number)

    with pytest.raises(ValueError, match=field):
        convert.key_from_proto(proto)


def test_unknown_optional_enum_value_becomes_none() -> None:
    """A reason or state of a newer server leaves the record readable."""
    proto = convert.key_to_proto(_key())
    proto.state, proto.revoke_reason = 99, 99  # type: ignore[assignment]  # a newer server's

    key = convert.key_from_proto(proto)

    assert (key.state, key.revoke_reason) == (None, None)


@pytest.mark.parametrize(
    ("table", "descriptor"),
    [
        (enums.MODE_TO_PROTO, key_pb2.KeyMode.DESCRIPTOR),
        (enums.KIND_TO_PROTO, key_pb2.KeyKind.DESCRIPTOR),
        (enums.STATE_TO_PROTO, key_pb2.KeyState.DESCRIPTOR),
        (enums.REVOKE_REASON_TO_PROTO, key_pb2.RevokeReason.DESCRIPTOR),
        (enums.QUOTA_PERIOD_TO_PROTO, key_pb2.QuotaPeriod.DESCRIPTOR),
        (enums.CHANGE_TYPE_TO_PROTO, service_pb2.ChangeType.DESCRIPTOR),
        (enums.USAGE_GRANULARITY_TO_PROTO, usage_service_pb2.UsageGranularity.DESCRIPTOR),
        (enums.VERDICT_TO_PROTO, service_pb2.Verdict.DESCRIPTOR),
    ],
)
def test_enum_matches_the_proto(table: Mapping[StrEnum, Any], descriptor: EnumDescriptor) -> None:
    """Model and proto have equal names and values, except UNSPECIFIED."""
    numbers = {value.number for value in descriptor.values if value.number != 0}

    assert set(table.values()) == numbers
