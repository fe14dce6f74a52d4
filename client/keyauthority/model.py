"""Records and values of Key Authority: frozen types shared by client and server.

Standard library only. A record holds committed state; `decision` evaluates it, `convert` and the
store translate it. Times are aware datetimes in UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, NamedTuple, NewType, NoReturn

LogId = NewType("LogId", str)
Revision = NewType("Revision", int)


class Labels(dict[str, str]):
    """The labels of a record. Immutable, since several owners may share a record."""

    __slots__ = ()

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("labels of a record are immutable: copy them with dict()")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[type[Labels], tuple[dict[str, str]]]:
        return Labels, (dict(self),)


NO_LABELS: Final = Labels()
CANARY_LABEL: Final = "keyauthority-canary"
"""The label, of any value, of a decoy: a key that no client should present."""


class KeyMode(StrEnum):
    """The two isolated environments of a project."""

    TEST = "test"
    LIVE = "live"


class KeyKind(StrEnum):
    """The kind of a key, which limits its use."""

    SECRET = "secret"
    RESTRICTED = "restricted"
    PUBLISHABLE = "publishable"
    OPERATOR = "operator"


class KeyState(StrEnum):
    """The lifecycle state of a key."""

    ACTIVE = "active"
    DISABLED = "disabled"
    EXPIRED = "expired"
    SUPERSEDED = "superseded"
    REVOKED = "revoked"


class RevokeReason(StrEnum):
    """Why a key was revoked."""

    KEY_COMPROMISE = "key_compromise"
    LEAKED = "leaked"
    NO_LONGER_USED = "no_longer_used"
    PRIVILEGE_WITHDRAWN = "privilege_withdrawn"
    OWNER_LEFT = "owner_left"
    OTHER = "other"


class QuotaPeriod(StrEnum):
    """The period that a quota counts over, in UTC."""

    DAY = "day"
    MONTH = "month"
    TOTAL = "total"


class UsageGranularity(StrEnum):
    """The width of a usage bucket, in UTC."""

    HOUR = "hour"
    DAY = "day"


class AdvisoryType(StrEnum):
    """The reason for which a key needs attention."""

    DORMANT = "dormant"
    NEVER_USED = "never_used"
    EXPIRING = "expiring"
    OVERLAP_ENDING_IN_USE = "overlap_ending_in_use"
    USED_AFTER_END = "used_after_end"
    CANARY_USED = "canary_used"
    UNRESTRICTED = "unrestricted"
    OLD = "old"
    UNUSED_PERMISSIONS = "unused_permissions"


class ImportScheme(StrEnum):
    """The form in which another system stores the digests of its tokens."""

    SHA256_HEX = "sha256_hex"
    SHA256_BASE64 = "sha256_base64"
    SHA256_BASE64URL = "sha256_base64url"
    SHA512_HEX = "sha512_hex"


class TokenPart(StrEnum):
    """The part of a token that its digest is computed from."""

    WHOLE = "whole"
    AFTER_LAST_UNDERSCORE = "after_last_underscore"


class ChangeType(StrEnum):
    """The type of a committed change."""

    KEY_CREATED = "key_created"
    KEY_UPDATED = "key_updated"
    KEY_ROTATED = "key_rotated"
    KEY_REVOKED = "key_revoked"
    PROJECT_CREATED = "project_created"
    PROJECT_UPDATED = "project_updated"


class VerdictCode(StrEnum):
    """Result of Verify: VALID, then the denials in the order of their checks."""

    VALID = "valid"
    MALFORMED = "malformed"
    UNKNOWN = "unknown"
    WRONG_ACCESS_KEY = "wrong_access_key"
    REVOKED = "revoked"
    SUPERSEDED = "superseded"
    EXPIRED = "expired"
    DISABLED = "disabled"
    PROJECT_SUSPENDED = "project_suspended"
    WRONG_PROJECT = "wrong_project"
    WRONG_MODE = "wrong_mode"
    IP_NOT_ALLOWED = "ip_not_allowed"
    REFERRER_NOT_ALLOWED = "referrer_not_allowed"
    APP_NOT_ALLOWED = "app_not_allowed"
    TARGET_NOT_ALLOWED = "target_not_allowed"
    MISSING_PERMISSION = "missing_permission"
    RATE_LIMITED = "rate_limited"
    QUOTA_EXCEEDED = "quota_exceeded"


@dataclass(frozen=True, slots=True)
class AndroidApp:
    """An Android app: package, and SHA-1 of its certificate in lower-case hexadecimal."""

    package: str
    sha1: str


@dataclass(frozen=True, slots=True)
class ApiTargetRestriction:
    """An API service and its allowed methods; no methods means all."""

    service: str
    methods: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Restrictions:
    """Allowed clients and targets of a key. An empty list allows all."""

    allowed_ips: tuple[str, ...] = ()
    allowed_referrers: tuple[str, ...] = ()
    android_apps: tuple[AndroidApp, ...] = ()
    ios_bundle_ids: tuple[str, ...] = ()
    api_targets: tuple[ApiTargetRestriction, ...] = ()


UNRESTRICTED: Final = Restrictions()


@dataclass(frozen=True, slots=True)
class RateLimit:
    """Units per window of `period`; windows are aligned to the Unix epoch."""

    limit: int
    period: timedelta


@dataclass(frozen=True, slots=True)
class Quota:
    """Units per day, per month, or in total."""

    limit: int
    period: QuotaPeriod


@dataclass(frozen=True, slots=True)
class Standing:
    """State of a limit after a verification; `reset_time` is None for a total quota."""

    limit: int
    remaining: int
    reset_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """The app that presented a token."""

    android_package: str = ""
    android_sha1: str = ""
    ios_bundle_id: str = ""


@dataclass(frozen=True, slots=True)
class ApiTarget:
    """The API service and method called with a token."""

    service: str
    method: str = ""


class Compiled:
    """Slot for the compiled form of a record, which `decision` computes once.

    It is not a field: comparison, repr, copy and pickle ignore it.
    """

    __slots__ = ("compiled",)
    compiled: object


@dataclass(frozen=True, slots=True, kw_only=True)
class Key(Compiled):
    """The record of a key, without its secret."""

    access_key: str
    project_id: str
    mode: KeyMode
    kind: KeyKind
    purpose: str = ""
    permissions: tuple[str, ...] = ()
    restrictions: Restrictions = UNRESTRICTED
    rate_limit: RateLimit | None = None
    quota: Quota | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    state: KeyState | None = None
    """The state when the server responded; None in a record not yet evaluated."""
    disabled: bool = False
    create_time: datetime
    update_time: datetime
    expire_time: datetime | None = None
    supersede_time: datetime | None = None
    revoke_time: datetime | None = None
    revoke_reason: RevokeReason | None = None
    revoke_note: str = ""
    last_used_time: datetime | None = None
    created_by: str = ""
    created_from: str = ""
    predecessor_access_key: str = ""
    successor_access_key: str = ""
    publishable_key: str = ""
    operator_projects: tuple[str, ...] = ()
    import_set: str = ""
    """The set that the key was imported with; empty for a key of this authority."""
    foreign_id: str = ""
    """The name of an imported key in the other system."""
    revision: int

    @property
    def etag(self) -> str:
        """Identifier of this version of the record."""
        return _etag(self.revision, self.update_time)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportSet:
    """The shape of the tokens of another system, and the form of their digests.

    Lengths are in characters, prefix included.
    """

    name: str
    scheme: ImportScheme
    token_part: TokenPart = TokenPart.WHOLE
    token_prefix: str = ""
    token_length_min: int
    token_length_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """The record of a project, which owns keys and their usage."""

    project_id: str
    display_name: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    suspended: bool = False
    rate_limit: RateLimit | None = None
    create_time: datetime
    update_time: datetime
    revision: int

    @property
    def etag(self) -> str:
        """Identifier of this version of the record."""
        return _etag(self.revision, self.update_time)


def _etag(revision: int, update_time: datetime) -> str:
    # A restore may reuse revisions, but not times.
    return f"{revision}-{update_time.timestamp():.6f}"


class Facts(NamedTuple):
    """The facts and requirements of a Verify call. Empty: unknown or not required.

    A tuple, like `Verdict`: one is created per Verify, five times as fast as a dataclass.
    """

    access_key: str = ""
    project_id: str = ""
    mode: KeyMode | None = None
    permissions: tuple[str, ...] = ()
    client_ip: str = ""
    referrer: str = ""
    app: App | None = None
    api_target: ApiTarget | None = None


NO_FACTS: Final = Facts()


class Verdict(NamedTuple):
    """Result of Verify. The fields of the key are empty unless the token is genuine.

    True in a condition only if it is `valid`, so that `if authority.verify(…):` admits no other.
    """

    code: VerdictCode
    access_key: str = ""
    project_id: str = ""
    mode: KeyMode | None = None
    kind: KeyKind | None = None
    permissions: tuple[str, ...] = ()
    labels: Mapping[str, str] = NO_LABELS
    expire_time: datetime | None = None
    key_standing: Standing | None = None
    project_standing: Standing | None = None
    quota_standing: Standing | None = None
    revision: int = 0
    log_id: str = ""
    failed: tuple[VerdictCode, ...] = ()
    key: Key | None = None
    project: Project | None = None

    @property
    def valid(self) -> bool:
        """True only if the code is VALID."""
        return self.code is VerdictCode.VALID

    def __bool__(self) -> bool:
        return self.valid  # a tuple that is not empty would always be true


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A committed change, with the records after it."""

    revision: int
    time: datetime
    type: ChangeType
    project_id: str
    keys: tuple[Key, ...] = ()
    project: Project | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRow:
    """Verifications of one key with one verdict in one hour or day.

    `project_id` may be empty in a report: the project of the key is used.
    """

    project_id: str = ""
    access_key: str
    verdict: VerdictCode
    bucket_time: datetime
    """The start of the hour or day."""
    count: int
    cost: int
    """The sum of the costs; denied verifications cost nothing."""
    last_used_time: datetime
    """The time of the newest verification."""
