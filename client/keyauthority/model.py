"""The records and values of Key Authority: frozen, plain, shared by both ends.

Standard library only. A record says what was committed; nothing here judges it (`decision` does)
or moves it (`convert` and the store do). Times are aware datetimes in UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, NamedTuple, NewType, NoReturn

ProjectId = NewType("ProjectId", str)
LogId = NewType("LogId", str)
Revision = NewType("Revision", int)


class Labels(dict[str, str]):
    """The labels of a record, which nobody can change: many may hold the same record."""

    __slots__ = ()

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("the labels of a record cannot be changed: take a dict of them")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[type[Labels], tuple[dict[str, str]]]:
        return Labels, (dict(self),)


NO_LABELS: Final = Labels()


class KeyMode(StrEnum):
    """The two worlds of a project."""

    TEST = "test"
    LIVE = "live"


class KeyKind(StrEnum):
    """What a key can be used for."""

    SECRET = "secret"
    RESTRICTED = "restricted"
    PUBLISHABLE = "publishable"
    OPERATOR = "operator"


class KeyState(StrEnum):
    """Where a key is in its life."""

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
    """The span that a quota counts over, in UTC."""

    DAY = "day"
    MONTH = "month"
    TOTAL = "total"


class UsageGranularity(StrEnum):
    """How finely usage is summed up, in UTC."""

    HOUR = "hour"
    DAY = "day"


class ChangeType(StrEnum):
    """What a change did."""

    KEY_CREATED = "key_created"
    KEY_UPDATED = "key_updated"
    KEY_ROTATED = "key_rotated"
    KEY_REVOKED = "key_revoked"
    PROJECT_CREATED = "project_created"
    PROJECT_UPDATED = "project_updated"


class VerdictCode(StrEnum):
    """The answers of Verify: VALID, then every denial in the order in which they are checked."""

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
    """An Android app: its package, and the SHA-1 of its certificate in lower-case hexadecimal."""

    package: str
    sha1: str


@dataclass(frozen=True, slots=True)
class ApiTargetRestriction:
    """An API service and the methods that may be called; no methods means all."""

    service: str
    methods: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Restrictions:
    """From where and on what a key may be used. An empty list restricts nothing."""

    allowed_ips: tuple[str, ...] = ()
    allowed_referrers: tuple[str, ...] = ()
    android_apps: tuple[AndroidApp, ...] = ()
    ios_bundle_ids: tuple[str, ...] = ()
    api_targets: tuple[ApiTargetRestriction, ...] = ()


UNRESTRICTED: Final = Restrictions()


@dataclass(frozen=True, slots=True)
class RateLimit:
    """Units in each window of `period`; windows are aligned to the Unix epoch."""

    limit: int
    period: timedelta


@dataclass(frozen=True, slots=True)
class Quota:
    """Units in each day, month or life."""

    limit: int
    period: QuotaPeriod


@dataclass(frozen=True, slots=True)
class Standing:
    """How a limit stands after an answer; `reset_time` is None for a quota of a whole life."""

    limit: int
    remaining: int
    reset_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """An app that a token came from."""

    android_package: str = ""
    android_sha1: str = ""
    ios_bundle_id: str = ""


@dataclass(frozen=True, slots=True)
class ApiTarget:
    """What a token is used to call."""

    service: str
    method: str = ""


class Compiled:
    """Room for the form that `decision` compiles a record into, once.

    It is no field: records are compared, shown, copied and pickled without it.
    """

    __slots__ = ("compiled",)
    compiled: object


@dataclass(frozen=True, slots=True, kw_only=True)
class Key(Compiled):
    """A key: the record. Its secret is no part of it."""

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
    """As the server saw it when it answered; None in a record that nobody has judged yet."""
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
    revision: int

    @property
    def etag(self) -> str:
        """Names this version of the record."""
        return _etag(self.revision, self.update_time)


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A project: what keys belong to and usage is counted against."""

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
        """Names this version of the record."""
        return _etag(self.revision, self.update_time)


def _etag(revision: int, update_time: datetime) -> str:
    # After a restore revisions come again; times do not.
    return f"{revision}-{update_time.timestamp():.6f}"


class Facts(NamedTuple):
    """What the caller of Verify asks for and knows of the client. Empty: not asked, not known.

    A tuple, as `Verdict` is: one is made for each Verify, and a tuple is made five times as fast.
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
    """The answer of Verify. What is said of the key is empty unless the token was right."""

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
        """True if the code is VALID, and only then."""
        return self.code is VerdictCode.VALID


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A committed change: the records as they are after it."""

    revision: int
    time: datetime
    type: ChangeType
    project_id: str
    keys: tuple[Key, ...] = ()
    project: Project | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFilter:
    """Which keys to list: all that is given must hold."""

    mode: KeyMode | None = None
    kind: KeyKind | None = None
    state: KeyState | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    expires_before: datetime | None = None
    used_before: datetime | None = None
    never_used: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRow:
    """The verifications of one key with one verdict in one hour or day.

    `project_id` may be empty in what is reported: the key's own is counted against.
    """

    project_id: str = ""
    access_key: str
    verdict: VerdictCode
    bucket_time: datetime
    """The start of the hour or day."""
    count: int
    cost: int
    """The sum of the costs; those that were denied cost nothing."""
    last_used_time: datetime
    """The newest of the verifications."""
