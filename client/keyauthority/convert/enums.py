"""Enums of the model <-> numbers of the proto, from the names that both share.

Each `…_TO_PROTO` is total. Each `…_FROM_PROTO` lacks UNSPECIFIED and what a newer peer may send.
"""

from __future__ import annotations

from typing import Final

from keyauthority.errors import ErrorReason
from keyauthority.model import (
    ChangeType,
    KeyKind,
    KeyMode,
    KeyState,
    QuotaPeriod,
    RevokeReason,
    UsageGranularity,
    VerdictCode,
)
from keyauthority.v1 import key_authority_service_pb2 as service_pb2
from keyauthority.v1 import key_pb2, usage_service_pb2

MODE_TO_PROTO: Final = {one: key_pb2.KeyMode.Value(f"KEY_MODE_{one.name}") for one in KeyMode}
MODE_FROM_PROTO: Final = {number: one for one, number in MODE_TO_PROTO.items()}

KIND_TO_PROTO: Final = {one: key_pb2.KeyKind.Value(f"KEY_KIND_{one.name}") for one in KeyKind}
KIND_FROM_PROTO: Final = {number: one for one, number in KIND_TO_PROTO.items()}

STATE_TO_PROTO: Final = {one: key_pb2.KeyState.Value(f"KEY_STATE_{one.name}") for one in KeyState}
STATE_FROM_PROTO: Final = {number: one for one, number in STATE_TO_PROTO.items()}

REVOKE_REASON_TO_PROTO: Final = {
    one: key_pb2.RevokeReason.Value(f"REVOKE_REASON_{one.name}") for one in RevokeReason
}
REVOKE_REASON_FROM_PROTO: Final = {number: one for one, number in REVOKE_REASON_TO_PROTO.items()}

QUOTA_PERIOD_TO_PROTO: Final = {
    one: key_pb2.QuotaPeriod.Value(f"QUOTA_PERIOD_{one.name}") for one in QuotaPeriod
}
QUOTA_PERIOD_FROM_PROTO: Final = {number: one for one, number in QUOTA_PERIOD_TO_PROTO.items()}

CHANGE_TYPE_TO_PROTO: Final = {
    one: service_pb2.ChangeType.Value(f"CHANGE_TYPE_{one.name}") for one in ChangeType
}
CHANGE_TYPE_FROM_PROTO: Final = {number: one for one, number in CHANGE_TYPE_TO_PROTO.items()}

VERDICT_TO_PROTO: Final = {
    one: service_pb2.Verdict.Value(f"VERDICT_{one.name}") for one in VerdictCode
}
VERDICT_FROM_PROTO: Final = {number: one for one, number in VERDICT_TO_PROTO.items()}

USAGE_GRANULARITY_TO_PROTO: Final = {
    one: usage_service_pb2.UsageGranularity.Value(f"USAGE_GRANULARITY_{one.name}")
    for one in UsageGranularity
}
USAGE_GRANULARITY_FROM_PROTO: Final = {
    number: one for one, number in USAGE_GRANULARITY_TO_PROTO.items()
}

REASON_TO_NAME: Final = {one: f"ERROR_REASON_{one.name}" for one in ErrorReason}
"""The names of the values of the proto enum ErrorReason, as ErrorInfo carries them."""
REASON_FROM_NAME: Final = {name: one for one, name in REASON_TO_NAME.items()}
