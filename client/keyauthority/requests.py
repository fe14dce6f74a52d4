"""Arguments of calls: frozen dataclasses shared by client and server. See also `results`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from typing import Final, NamedTuple

from keyauthority.model import (
    NO_FACTS,
    UNRESTRICTED,
    AdvisoryType,
    Facts,
    KeyKind,
    KeyMode,
    KeyState,
    Quota,
    RateLimit,
    Restrictions,
    RevokeReason,
    UsageGranularity,
    UsageRow,
)

OVERLAP_DEFAULT: Final = timedelta(hours=24)  # the overlap that Razorpay grants
OVERLAP_MAX: Final = timedelta(days=7)  # the longest that Stripe allows
WINDOW_MAX: Final = timedelta(days=3660)  # ten years, of which an advisory may look back or ahead


class Unchanged(Enum):
    """The type of `UNCHANGED`."""

    UNCHANGED = "unchanged"

    def __repr__(self) -> str:
        return self.name


UNCHANGED: Final = Unchanged.UNCHANGED
"""Marks a field that an update does not change; None clears the field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewProject:
    """Arguments of CreateProject."""

    display_name: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    rate_limit: RateLimit | None = None
    request_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """Arguments of CreateKey: at most one of `expire_time` and `ttl`."""

    project_id: str = ""
    mode: KeyMode | None = None
    kind: KeyKind | None = None
    purpose: str = ""
    permissions: tuple[str, ...] = ()
    restrictions: Restrictions = UNRESTRICTED
    expire_time: datetime | None = None
    ttl: timedelta | None = None
    rate_limit: RateLimit | None = None
    quota: Quota | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    operator_projects: tuple[str, ...] = ()
    request_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedKey:
    """A key of another system: its stored digest, and the settings of the new record."""

    digest: str = field(repr=False)
    foreign_id: str = ""
    """The name of the key in the other system."""
    project_id: str = ""
    mode: KeyMode | None = None
    kind: KeyKind | None = None
    purpose: str = ""
    permissions: tuple[str, ...] = ()
    restrictions: Restrictions = UNRESTRICTED
    expire_time: datetime | None = None
    rate_limit: RateLimit | None = None
    quota: Quota | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


ANY_IMPORT_SET: Final = "*"
"""In a filter: keys of every import set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFilter:
    """Filter of ListKeys: a key must match every field that is set."""

    mode: KeyMode | None = None
    kind: KeyKind | None = None
    state: KeyState | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    expires_before: datetime | None = None
    used_before: datetime | None = None
    never_used: bool = False
    import_set: str = ""
    """The name of an import set; `*` for any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyUpdate:
    """Arguments of UpdateKey: the fields named in `paths` are set to the values given here."""

    access_key: str
    paths: frozenset[str]
    purpose: str = ""
    permissions: tuple[str, ...] = ()
    restrictions: Restrictions = UNRESTRICTED
    expire_time: datetime | None = None
    rate_limit: RateLimit | None = None
    quota: Quota | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    disabled: bool = False
    etag: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectUpdate:
    """Arguments of UpdateProject: the fields named in `paths` are set to the values given here."""

    project_id: str
    paths: frozenset[str]
    display_name: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    suspended: bool = False
    rate_limit: RateLimit | None = None
    etag: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """Arguments of RotateKey. An `overlap` of None means `OVERLAP_DEFAULT`."""

    access_key: str
    overlap: timedelta | None = None
    expire_time: datetime | None = None
    request_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """Arguments of RevokeKey: the key by its access key, its secret, or both."""

    access_key: str = ""
    secret_key: str = field(default="", repr=False)
    reason: RevokeReason | None = None
    note: str = ""


class VerifyQuery(NamedTuple):
    """Arguments of Verify: the presented token, and the facts to check it against."""

    secret_key: str
    facts: Facts = NO_FACTS
    cost: int = 1
    at_least_revision: int = 0
    log_id: str = ""
    explain: bool = False
    include_record: bool = False

    def __repr__(self) -> str:
        return f"VerifyQuery(facts={self.facts!r}, cost={self.cost!r})"


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageQuery:
    """Arguments of GetUsage: the hours or days that begin in [start_time, end_time)."""

    project_id: str = ""
    access_key: str = ""
    start_time: datetime | None = None
    end_time: datetime | None = None
    granularity: UsageGranularity = UsageGranularity.HOUR
    page_size: int = 0
    page_token: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdvisoryQuery:
    """Arguments of ListAdvisories. No `types` means all; a window of None means its default."""

    project_id: str = ""
    types: tuple[AdvisoryType, ...] = ()
    dormant_after: timedelta | None = None
    expires_within: timedelta | None = None
    page_size: int = 0
    page_token: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchQuery:
    """Arguments of WatchChanges: start after `from_revision`; None means now."""

    project_id: str = ""
    from_revision: int | None = None
    log_id: str = ""
    """The log that the revision belongs to; empty is not checked."""
    snapshot: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EventQuery:
    """Arguments of ListEvents: the changes committed in [start_time, end_time)."""

    project_id: str = ""
    access_key: str = ""
    actor: str = ""
    start_time: datetime | None = None
    end_time: datetime | None = None
    page_size: int = 0
    page_token: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyObservation:
    """The permissions and the address that verifications of a key were about."""

    access_key: str
    permissions: tuple[str, ...] = ()
    """The permissions asked for, or those of the key that they made use of; at most 100."""
    last_peer: str = ""
    """The `client_ip` of the newest verification; empty if none was given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageReport:
    """Arguments of ReportUsage: rows to add, counted once per `batch_id`."""

    batch_id: str
    rows: tuple[UsageRow, ...]
    observations: tuple[KeyObservation, ...] = ()
