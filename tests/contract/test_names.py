"""The proto package has exactly the contract's names: a rename breaks other programs."""

from __future__ import annotations

import re
from enum import StrEnum

import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FileDescriptor

from keyauthority.errors import ErrorReason
from keyauthority.model import (
    ChangeType,
    KeyKind,
    KeyMode,
    KeyState,
    QuotaPeriod,
    RevokeReason,
    VerdictCode,
)
from keyauthority.v1 import (
    advisory_service_pb2,
    audit_service_pb2,
    error_reason_pb2,
    key_authority_service_pb2,
    key_pb2,
    project_service_pb2,
    usage_service_pb2,
)
from tests.contract.names import (
    DENIALS,
    DURATIONS,
    ENUMS,
    MESSAGES,
    PACKAGE,
    SERVICES,
    STREAMING,
    TIMESTAMPS,
)

FILES: list[FileDescriptor] = [
    advisory_service_pb2.DESCRIPTOR,
    audit_service_pb2.DESCRIPTOR,
    error_reason_pb2.DESCRIPTOR,
    key_authority_service_pb2.DESCRIPTOR,
    key_pb2.DESCRIPTOR,
    project_service_pb2.DESCRIPTOR,
    usage_service_pb2.DESCRIPTOR,
]
PROTO_SERVICES = {name: one for file in FILES for name, one in file.services_by_name.items()}
PROTO_MESSAGES: dict[str, Descriptor] = {
    name: one for file in FILES for name, one in file.message_types_by_name.items()
}
PROTO_ENUMS: dict[str, EnumDescriptor] = {
    name: one for file in FILES for name, one in file.enum_types_by_name.items()
}


def _fields(message: Descriptor) -> str:
    """Return the fields of a message as the contract writes them."""
    text = ""
    for field in message.fields:
        oneof = field.containing_oneof
        # proto3 keeps an optional field in a oneof of its own, whose name begins with _
        joined = oneof and not oneof.name.startswith("_") and field is not oneof.fields[0]
        entry = field.message_type and field.message_type.GetOptions().map_entry
        text += ("|" if joined else " ") + field.name
        text += "[]" if field.is_repeated and not entry else ""
    return text.strip()


def _values(enum: EnumDescriptor) -> list[str]:
    """Return the values of an enum without its name in front, in order of their numbers."""
    prefix = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", enum.name).upper() + "_"
    assert all(value.name.startswith(prefix) for value in enum.values)
    assert [value.number for value in enum.values] == list(range(len(enum.values)))
    return [value.name.removeprefix(prefix) for value in enum.values]


def test_package_is_the_contracts() -> None:
    """All protos share one package."""
    assert {file.package for file in FILES} == {PACKAGE}


def test_services_are_the_contracts() -> None:
    """They have the contract's RPCs in its order."""
    actual = {
        name: tuple(method.name for method in service.methods)
        for name, service in PROTO_SERVICES.items()
    }
    assert actual == SERVICES


@pytest.mark.parametrize("service", SERVICES)
def test_every_rpc_has_its_own_request_and_response(service: str) -> None:
    """`Name` maps NameRequest to NameResponse; only the listed RPCs stream."""
    for method in PROTO_SERVICES[service].methods:
        assert method.input_type.name == f"{method.name}Request"
        assert method.output_type.name == f"{method.name}Response"
        assert method.server_streaming is (method.name in STREAMING)
        assert not method.client_streaming


def test_messages_are_the_contracts() -> None:
    """None is missing and none is added."""
    assert set(PROTO_MESSAGES) == set(MESSAGES)


@pytest.mark.parametrize("message", MESSAGES)
def test_fields_are_the_contracts(message: str) -> None:
    """In its order, lists and oneofs included."""
    assert _fields(PROTO_MESSAGES[message]) == MESSAGES[message]


def test_times_are_timestamps_and_spans_are_durations() -> None:
    """Timestamp and Duration are used for these only."""
    for message in PROTO_MESSAGES.values():
        for field in message.fields:
            type_name = field.message_type.full_name if field.message_type else ""
            place = f"{message.name}.{field.name}"
            a_time = field.name in TIMESTAMPS.split()
            assert (place, type_name == "google.protobuf.Timestamp") == (place, a_time)
            a_span = field.name in DURATIONS.split() or place == "RateLimit.period"
            assert (place, type_name == "google.protobuf.Duration") == (place, a_span)


def test_presence_is_tracked_where_unset_differs_from_zero() -> None:
    """`cost` 0 spends nothing, unset is 1; from_revision 0 is all, unset is now."""
    assert PROTO_MESSAGES["VerifyRequest"].fields_by_name["cost"].has_presence
    assert PROTO_MESSAGES["WatchChangesRequest"].fields_by_name["from_revision"].has_presence


def test_enums_are_the_contracts() -> None:
    """None is missing and none is added."""
    assert set(PROTO_ENUMS) == {*ENUMS, "Verdict", "ErrorReason"}


@pytest.mark.parametrize("enum", ENUMS)
def test_enum_values_are_the_contracts(enum: str) -> None:
    """With the enum's name as prefix, zero UNSPECIFIED, in the contract's order."""
    assert _values(PROTO_ENUMS[enum]) == ["UNSPECIFIED", *ENUMS[enum].split()]


def test_verdict_numbers_follow_the_order_of_checks() -> None:
    """Denials are numbered in the order of evaluation."""
    assert _values(PROTO_ENUMS["Verdict"]) == ["UNSPECIFIED", "VALID", *DENIALS.split()]


@pytest.mark.parametrize(
    ("enum", "own"),
    [
        ("KeyMode", KeyMode),
        ("KeyKind", KeyKind),
        ("KeyState", KeyState),
        ("QuotaPeriod", QuotaPeriod),
        ("RevokeReason", RevokeReason),
        ("ChangeType", ChangeType),
        ("Verdict", VerdictCode),
        ("ErrorReason", ErrorReason),
    ],
)
def test_python_enum_has_the_same_values(enum: str, own: type[StrEnum]) -> None:
    """Each name is the proto's in lower case, in the same order."""
    names = [name.lower() for name in _values(PROTO_ENUMS[enum])[1:]]
    assert [member.value for member in own] == names
    assert [member.name.lower() for member in own] == names
