"""Enums of the model <-> enum numbers of the proto, matched by name.

Each `…_TO_PROTO` is total. Each `…_FROM_PROTO` lacks UNSPECIFIED and the values of newer peers.
"""

from __future__ import annotations

from typing import Final

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

MODE_TO_PROTO: Final = {
    member: key_pb2.KeyMode.Value(f"KEY_MODE_{member.name}") for member in KeyMode
}
MODE_FROM_PROTO: Final = {number: member for member, number in MODE_TO_PROTO.items()}

KIND_TO_PROTO: Final = {
    member: key_pb2.KeyKind.Value(f"KEY_KIND_{member.name}") for member in KeyKind
}
KIND_FROM_PROTO: Final = {number: member for member, number in KIND_TO_PROTO.items()}

STATE_TO_PROTO: Final = {
    member: key_pb2.KeyState.Value(f"KEY_STATE_{member.name}") for member in KeyState
}
STATE_FROM_PROTO: Final = {number: member for member, number in STATE_TO_PROTO.items()}

REVOKE_REASON_TO_PROTO: Final = {
    member: key_pb2.RevokeReason.Value(f"REVOKE_REASON_{member.name}") for member in RevokeReason
}
REVOKE_REASON_FROM_PROTO: Final = {
    number: member for member, number in REVOKE_REASON_TO_PROTO.items()
}

QUOTA_PERIOD_TO_PROTO: Final = {
    member: key_pb2.QuotaPeriod.Value(f"QUOTA_PERIOD_{member.name}") for member in QuotaPeriod
}
QUOTA_PERIOD_FROM_PROTO: Final = {
    number: member for member, number in QUOTA_PERIOD_TO_PROTO.items()
}

IMPORT_SCHEME_TO_PROTO: Final = {
    member: service_pb2.ImportScheme.Value(f"IMPORT_SCHEME_{member.name}")
    for member in ImportScheme
}
IMPORT_SCHEME_FROM_PROTO: Final = {
    number: member for member, number in IMPORT_SCHEME_TO_PROTO.items()
}

TOKEN_PART_TO_PROTO: Final = {
    member: service_pb2.TokenPart.Value(f"TOKEN_PART_{member.name}") for member in TokenPart
}
TOKEN_PART_FROM_PROTO: Final = {number: member for member, number in TOKEN_PART_TO_PROTO.items()}

CHANGE_TYPE_TO_PROTO: Final = {
    member: service_pb2.ChangeType.Value(f"CHANGE_TYPE_{member.name}") for member in ChangeType
}
CHANGE_TYPE_FROM_PROTO: Final = {number: member for member, number in CHANGE_TYPE_TO_PROTO.items()}

VERDICT_TO_PROTO: Final = {
    member: service_pb2.Verdict.Value(f"VERDICT_{member.name}") for member in VerdictCode
}
VERDICT_FROM_PROTO: Final = {number: member for member, number in VERDICT_TO_PROTO.items()}

USAGE_GRANULARITY_TO_PROTO: Final = {
    member: usage_service_pb2.UsageGranularity.Value(f"USAGE_GRANULARITY_{member.name}")
    for member in UsageGranularity
}
USAGE_GRANULARITY_FROM_PROTO: Final = {
    number: member for member, number in USAGE_GRANULARITY_TO_PROTO.items()
}

ADVISORY_TYPE_TO_PROTO: Final = {
    member: advisory_service_pb2.AdvisoryType.Value(f"ADVISORY_TYPE_{member.name}")
    for member in AdvisoryType
}
ADVISORY_TYPE_FROM_PROTO: Final = {
    number: member for member, number in ADVISORY_TYPE_TO_PROTO.items()
}

REASON_TO_NAME: Final = {member: f"ERROR_REASON_{member.name}" for member in ErrorReason}
"""The value names of the proto enum ErrorReason, as carried in ErrorInfo."""
REASON_FROM_NAME: Final = {name: member for member, name in REASON_TO_NAME.items()}
