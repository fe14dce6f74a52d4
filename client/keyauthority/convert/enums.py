"""Enums of the model <-> enum numbers of the proto, matched by name.

Each `…_TO_PROTO` is total. Each `…_FROM_PROTO` lacks UNSPECIFIED and the values of newer peers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Final, TypeVar, cast

from keyauthority.errors import ErrorReason
from keyauthority.model import (
    AdvisoryType,
    ChangeType,
    ImportScheme,
    KeyKind,
    KeyMode,
    KeyState,
    QuotaPeriod,
    RevokeReason,
    TokenPart,
    UsageGranularity,
    VerdictCode,
)
from keyauthority.v1 import advisory_service_pb2, key_pb2, usage_service_pb2
from keyauthority.v1 import key_authority_service_pb2 as service_pb2

E = TypeVar("E", bound=Enum)
V = TypeVar("V", bound=int)


def _matched(
    enum: type[E], prefix: str, number: Callable[[str], V]
) -> tuple[dict[E, V], dict[V, E]]:
    numbers = {member: number(f"{prefix}_{member.name}") for member in enum}
    return numbers, {number: member for member, number in numbers.items()}


def number_of(numbers: Mapping[E, V], member: E | None) -> V:
    """Return the number of a member; UNSPECIFIED for None."""
    return numbers[member] if member else cast("V", 0)


MODE_TO_PROTO, MODE_FROM_PROTO = _matched(KeyMode, "KEY_MODE", key_pb2.KeyMode.Value)
KIND_TO_PROTO, KIND_FROM_PROTO = _matched(KeyKind, "KEY_KIND", key_pb2.KeyKind.Value)
STATE_TO_PROTO, STATE_FROM_PROTO = _matched(KeyState, "KEY_STATE", key_pb2.KeyState.Value)
REVOKE_REASON_TO_PROTO, REVOKE_REASON_FROM_PROTO = _matched(
    RevokeReason, "REVOKE_REASON", key_pb2.RevokeReason.Value
)
QUOTA_PERIOD_TO_PROTO, QUOTA_PERIOD_FROM_PROTO = _matched(
    QuotaPeriod, "QUOTA_PERIOD", key_pb2.QuotaPeriod.Value
)
IMPORT_SCHEME_TO_PROTO, IMPORT_SCHEME_FROM_PROTO = _matched(
    ImportScheme, "IMPORT_SCHEME", service_pb2.ImportScheme.Value
)
TOKEN_PART_TO_PROTO, TOKEN_PART_FROM_PROTO = _matched(
    TokenPart, "TOKEN_PART", service_pb2.TokenPart.Value
)
CHANGE_TYPE_TO_PROTO, CHANGE_TYPE_FROM_PROTO = _matched(
    ChangeType, "CHANGE_TYPE", service_pb2.ChangeType.Value
)
VERDICT_TO_PROTO, VERDICT_FROM_PROTO = _matched(VerdictCode, "VERDICT", service_pb2.Verdict.Value)
USAGE_GRANULARITY_TO_PROTO, USAGE_GRANULARITY_FROM_PROTO = _matched(
    UsageGranularity, "USAGE_GRANULARITY", usage_service_pb2.UsageGranularity.Value
)
ADVISORY_TYPE_TO_PROTO, ADVISORY_TYPE_FROM_PROTO = _matched(
    AdvisoryType, "ADVISORY_TYPE", advisory_service_pb2.AdvisoryType.Value
)

REASON_TO_NAME: Final = {member: f"ERROR_REASON_{member.name}" for member in ErrorReason}
"""The value names of the proto enum ErrorReason, as carried in ErrorInfo."""
REASON_FROM_NAME: Final = {name: member for member, name in REASON_TO_NAME.items()}
