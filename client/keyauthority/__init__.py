"""Client library of Key Authority: issues, revokes and verifies API keys over gRPC.

The public API is `__all__`; every other name may change without notice. Nothing here imports the
server. Begin with `client` (`aio` is its asyncio twin), then `verifier`, which verifies keys in
the calling process.
"""

from __future__ import annotations

from keyauthority._channel import Tls
from keyauthority.aio import AsyncClient, AsyncListing, AsyncWatch
from keyauthority.client import Client, Listing, Watch
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
    Change,
    ChangeType,
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
from keyauthority.requests import UNCHANGED, Unchanged, VerifyQuery
from keyauthority.results import (
    CreatedKey,
    Event,
    FieldChange,
    Page,
    RevokedKey,
    RotatedKey,
    WatchUpdate,
    WrittenKey,
    WrittenProject,
)
from keyauthority.token import TOKEN_PATTERN, SecretKey
from keyauthority.verifier import AsyncVerifier, Verifier

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
    "AsyncVerifier",
    "AsyncWatch",
    "Change",
    "ChangeType",
    "Client",
    "CreatedKey",
    "DeadlineExceeded",
    "ErrorReason",
    "Event",
    "Facts",
    "FailedPrecondition",
    "FieldChange",
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
    "Tls",
    "Unauthenticated",
    "Unavailable",
    "Unchanged",
    "Unimplemented",
    "UsageGranularity",
    "UsageRow",
    "Verdict",
    "VerdictCode",
    "Verifier",
    "VerifyQuery",
    "Watch",
    "WatchUpdate",
    "WrittenKey",
    "WrittenProject",
    "__version__",
]
