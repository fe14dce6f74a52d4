"""What calls ask for: frozen, plain, shared by both ends. What they answer is in `results`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from typing import Final, NamedTuple

from keyauthority.model import (
    NO_FACTS,
    UNRESTRICTED,
    Facts,
    KeyKind,
    KeyMode,
    Quota,
    RateLimit,
    Restrictions,
    RevokeReason,
    UsageGranularity,
    UsageRow,
)

OVERLAP_DEFAULT: Final = timedelta(hours=24)  # as long as Razorpay's old key lives on
OVERLAP_MAX: Final = timedelta(days=7)  # as long as Stripe allows


class Unchanged(Enum):
    """The type of `UNCHANGED`."""

    UNCHANGED = "unchanged"

    def __repr__(self) -> str:
        return self.name


UNCHANGED: Final = Unchanged.UNCHANGED
"""Stands for a field that an update leaves as it is; None, in its place, clears the field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewProject:
    """What CreateProject is asked for."""

    display_name: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    rate_limit: RateLimit | None = None
    request_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """What CreateKey is asked for: `expire_time` or `ttl`, never both."""

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
class KeyUpdate:
    """What UpdateKey is asked for: the fields that `paths` names become what they are here."""

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
    """What UpdateProject is asked for: the fields that `paths` names become what they are here."""

    project_id: str
    paths: frozenset[str]
    display_name: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    suspended: bool = False
    rate_limit: RateLimit | None = None
    etag: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """What RotateKey is asked for. No overlap means `OVERLAP_DEFAULT`."""

    access_key: str
    overlap: timedelta | None = None
    expire_time: datetime | None = None
    request_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """What RevokeKey is asked for: the key by its access key, its secret, or both."""

    access_key: str = ""
    secret_key: str = field(default="", repr=False)
    reason: RevokeReason | None = None
    note: str = ""


class VerifyQuery(NamedTuple):
    """What Verify is asked for: a token as it was presented, and what it is to be judged on."""

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
    """What GetUsage is asked for: the hours or days that begin in [start_time, end_time)."""

    project_id: str = ""
    access_key: str = ""
    start_time: datetime | None = None
    end_time: datetime | None = None
    granularity: UsageGranularity = UsageGranularity.HOUR
    page_size: int = 0
    page_token: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchQuery:
    """What WatchChanges is asked for: the changes behind a revision, None for those from now on."""

    project_id: str = ""
    from_revision: int | None = None
    log_id: str = ""
    """The log that the revision counts in; empty is not checked."""
    snapshot: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EventQuery:
    """What ListEvents is asked for: the changes that were committed in [start_time, end_time)."""

    project_id: str = ""
    access_key: str = ""
    actor: str = ""
    start_time: datetime | None = None
    end_time: datetime | None = None
    page_size: int = 0
    page_token: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageReport:
    """What ReportUsage is asked for: rows to add, once for each batch_id."""

    batch_id: str
    rows: tuple[UsageRow, ...]
