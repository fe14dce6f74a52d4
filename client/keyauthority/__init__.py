"""Key Authority's client: issues, revokes and verifies API keys at an authority, over gRPC.

What is listed in `__all__` is public; it imports no part of the server.
"""

from __future__ import annotations

from keyauthority.aio import AsyncClient, AsyncListing
from keyauthority.client import Client, Listing
from keyauthority.errors import (
    Aborted,
    AlreadyExists,
    DeadlineExceeded,
    ErrorReason,
    FailedPrecondition,
    FieldViolation,
    Internal,
    InvalidArgument,
    KeyAuthorityError,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from keyauthority.model import (
    AndroidApp,
    ApiTarget,
    ApiTargetRestriction,
    App,
    Facts,
    Key,
    KeyKind,
    KeyMode,
    KeyState,
    Project,
    Quota,
    QuotaPeriod,
    RateLimit,
    Restrictions,
    RevokeReason,
    Standing,
    UsageGranularity,
    UsageRow,
    Verdict,
    VerdictCode,
)
from keyauthority.requests import UNCHANGED, Presentation, Unchanged
from keyauthority.results import (
    CreatedKey,
    Page,
    RevokedKey,
    RotatedKey,
    WrittenKey,
    WrittenProject,
)
from keyauthority.token import TOKEN_PATTERN, SecretKey

__version__ = "0.1.0"

__all__ = [
    "TOKEN_PATTERN",
    "UNCHANGED",
    "Aborted",
    "AlreadyExists",
    "AndroidApp",
    "ApiTarget",
    "ApiTargetRestriction",
    "App",
    "AsyncClient",
    "AsyncListing",
    "Client",
    "CreatedKey",
    "DeadlineExceeded",
    "ErrorReason",
    "Facts",
    "FailedPrecondition",
    "FieldViolation",
    "Internal",
    "InvalidArgument",
    "Key",
    "KeyAuthorityError",
    "KeyKind",
    "KeyMode",
    "KeyState",
    "Listing",
    "NotFound",
    "Page",
    "PermissionDenied",
    "Presentation",
    "Project",
    "Quota",
    "QuotaPeriod",
    "RateLimit",
    "ResourceExhausted",
    "Restrictions",
    "RevokeReason",
    "RevokedKey",
    "RotatedKey",
    "SecretKey",
    "Standing",
    "Unauthenticated",
    "Unavailable",
    "Unchanged",
    "Unimplemented",
    "UsageGranularity",
    "UsageRow",
    "Verdict",
    "VerdictCode",
    "WrittenKey",
    "WrittenProject",
    "__version__",
]
