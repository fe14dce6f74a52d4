"""The only mapping between records and row dicts, in both directions.

A row dict maps columns to values of types common to JSON and SQL: texts, integers, booleans, lists
and dicts. Times are integer microseconds since the Unix epoch, durations integer microseconds.
Unset columns are left out. The rows of the tables and the records in the change log both derive
from row dicts. A row dict never holds a digest, a pepper version or a time of last use.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from sys import intern
from typing import Any, Final

from keyauthority.clock import EPOCH
from keyauthority.model import (
    UNRESTRICTED,
    AndroidApp,
    ApiTargetRestriction,
    Change,
    ChangeType,
    Key,
    KeyKind,
    KeyMode,
    Project,
    Quota,
    QuotaPeriod,
    RateLimit,
    Restrictions,
    Revision,
    RevokeReason,
)
from keyauthority_server.store.interface import StoreDamaged
from keyauthority_server.store.rows import Row
from keyauthority_server.store.types import Entry

UNREADABLE: Final = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError)
"""The exceptions of decoding a record that no server has written."""

RowDict = dict[str, Any]

KEY_COLUMNS: Final = (
    "access_key",
    "revision",
    "project_id",
    "mode",
    "kind",
    "purpose",
    "permissions",
    "restrictions",
    "rate_limit_limit",
    "rate_limit_period",
    "quota_limit",
    "quota_period",
    "labels",
    "disabled",
    "create_time",
    "update_time",
    "expire_time",
    "supersede_time",
    "revoke_time",
    "revoke_reason",
    "revoke_note",
    "created_by",
    "created_from",
    "predecessor_access_key",
    "successor_access_key",
    "publishable_key",
    "operator_projects",
    "import_set",
    "foreign_id",
)
PROJECT_COLUMNS: Final = (
    "project_id",
    "revision",
    "display_name",
    "labels",
    "suspended",
    "rate_limit_limit",
    "rate_limit_period",
    "create_time",
    "update_time",
)

_JSON_COLUMNS: Final = frozenset({"permissions", "restrictions", "labels", "operator_projects"})
_FLAG_COLUMNS: Final = frozenset({"disabled", "suspended"})
MICROSECOND: Final = timedelta(microseconds=1)
INTEGER_MAX: Final = 2**63 - 1  # of a column
_MODES: Final = {mode.value: mode for mode in KeyMode}
_KINDS: Final = {kind.value: kind for kind in KeyKind}


def microseconds(time: datetime) -> int:
    """Return the time as microseconds since the Unix epoch, exactly."""
    return (time - EPOCH) // MICROSECOND


def time_from(number: int) -> datetime:
    """Return the time of `number` microseconds since the Unix epoch, exactly.

    Raises StoreDamaged for a value that no server writes.
    """
    try:
        return EPOCH + timedelta(microseconds=number)
    except (OverflowError, TypeError) as error:
        raise StoreDamaged(f"invalid time, {number!r} microseconds: damaged or altered") from error


to_json: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode
"""Encodes a value as compact JSON."""


def flat_key(key: Key) -> RowDict:
    """Return the key's row dict, without the derived `state`."""
    return _without_unset(
        {
            "access_key": key.access_key,
            "revision": key.revision,
            "project_id": key.project_id,
            "mode": key.mode.value,
            "kind": key.kind.value,
            "purpose": key.purpose,
            "permissions": list(key.permissions),
            "restrictions": _flat_restrictions(key.restrictions),
            **_flat_rate_limit(key.rate_limit),
            "quota_limit": key.quota.limit if key.quota else None,
            "quota_period": key.quota.period.value if key.quota else None,
            "labels": dict(key.labels),
            "disabled": key.disabled,
            "create_time": microseconds(key.create_time),
            "update_time": microseconds(key.update_time),
            "expire_time": microseconds(key.expire_time) if key.expire_time else None,
            "supersede_time": microseconds(key.supersede_time) if key.supersede_time else None,
            "revoke_time": microseconds(key.revoke_time) if key.revoke_time else None,
            "revoke_reason": key.revoke_reason.value if key.revoke_reason else None,
            "revoke_note": key.revoke_note,
            "created_by": key.created_by,
            "created_from": key.created_from,
            "predecessor_access_key": key.predecessor_access_key,
            "successor_access_key": key.successor_access_key,
            "publishable_key": key.publishable_key,
            "operator_projects": list(key.operator_projects),
            "import_set": key.import_set,
            "foreign_id": key.foreign_id,
        }
    )


def key_from(record: Mapping[str, Any], last_used_time: int | None = None) -> Key:
    """Return the key of a row dict."""
    get = record.get
    quota_limit, revoke_reason = get("quota_limit"), get("revoke_reason")
    return Key(
        access_key=record["access_key"],
        project_id=intern(get("project_id") or ""),  # cached keys share texts: a third of a record
        mode=_MODES[record["mode"]],
        kind=_KINDS[record["kind"]],
        purpose=get("purpose") or "",
        permissions=tuple(map(intern, get("permissions") or ())),
        restrictions=_restrictions_from(get("restrictions")),
        rate_limit=_rate_limit_from(record),
        quota=None
        if quota_limit is None
        else Quota(quota_limit, QuotaPeriod(record["quota_period"])),
        labels=get("labels") or {},
        disabled=bool(get("disabled")),
        create_time=time_from(record["create_time"]),
        update_time=time_from(record["update_time"]),
        expire_time=_time(get("expire_time")),
        supersede_time=_time(get("supersede_time")),
        revoke_time=_time(get("revoke_time")),
        revoke_reason=None if revoke_reason is None else RevokeReason(revoke_reason),
        revoke_note=get("revoke_note") or "",
        last_used_time=_time(last_used_time),
        created_by=intern(get("created_by") or ""),
        created_from=intern(get("created_from") or ""),
        predecessor_access_key=get("predecessor_access_key") or "",
        successor_access_key=get("successor_access_key") or "",
        publishable_key=get("publishable_key") or "",
        operator_projects=tuple(get("operator_projects") or ()),
        import_set=get("import_set") or "",
        foreign_id=get("foreign_id") or "",
        revision=record["revision"],
    )


def flat_project(project: Project) -> RowDict:
    """Return the project's row dict."""
    return _without_unset(
        {
            "project_id": project.project_id,
            "revision": project.revision,
            "display_name": project.display_name,
            "labels": dict(project.labels),
            "suspended": project.suspended,
            **_flat_rate_limit(project.rate_limit),
            "create_time": microseconds(project.create_time),
            "update_time": microseconds(project.update_time),
        }
    )


def project_from(record: Mapping[str, Any]) -> Project:
    """Return the project of a row dict."""
    return Project(
        project_id=record["project_id"],
        display_name=record.get("display_name") or "",
        labels=record.get("labels") or {},
        suspended=bool(record.get("suspended")),
        rate_limit=_rate_limit_from(record),
        create_time=time_from(record["create_time"]),
        update_time=time_from(record["update_time"]),
        revision=record["revision"],
    )


def change_from(revision: Revision, row: Row) -> Change:
    """Return the change of a row of (time, type, project_id, keys, project)."""
    time, change_type, project_id, keys, project = row
    try:
        return Change(
            revision=revision,
            time=time_from(time),
            type=ChangeType(change_type),
            project_id=project_id or "",
            keys=tuple(key_from(flat) for flat in json.loads(keys)),
            project=None if project is None else project_from(json.loads(project)),
        )
    except (*UNREADABLE, RecursionError) as error:
        raise StoreDamaged(f"change {revision} cannot be read: damaged or altered") from error


def change_of(entry: Entry) -> Change:
    """Return the change of an entry that was committed, as `change_from` reads it."""
    return Change(
        revision=entry.revision,
        time=entry.time,
        type=entry.type,
        project_id=entry.project_id,
        keys=tuple(map(key_from, entry.keys)),
        project=None if entry.project is None else project_from(entry.project),
    )


def values_of(columns: Sequence[str], flat: Mapping[str, Any]) -> list[Any]:
    """Return the values of the columns for a row dict: NULL for unset columns."""
    values: list[Any] = []
    for column in columns:
        value = flat.get(column)
        if column in _FLAG_COLUMNS:
            value = int(bool(value))
        elif value is not None and column in _JSON_COLUMNS:
            value = to_json(value)
        values.append(value)
    return values


def flat_from(columns: Sequence[str], row: Row) -> RowDict:
    """Return the row dict of a row of exactly these columns."""
    flat: RowDict = {}
    for column, value in zip(columns, row, strict=True):
        if value is None:
            continue
        if column in _JSON_COLUMNS:
            flat[column] = json.loads(value)
        elif column not in _FLAG_COLUMNS:
            flat[column] = value
        elif value:
            flat[column] = True
    return flat


def _without_unset(record: RowDict) -> RowDict:
    """Leave out None, False and empty texts, lists and dicts; a number 0 is set."""
    return {name: value for name, value in record.items() if value or type(value) is int}


def _time(number: int | None) -> datetime | None:
    return None if number is None else time_from(number)


def _flat_rate_limit(rate_limit: RateLimit | None) -> RowDict:
    if rate_limit is None:
        return {}
    return {
        "rate_limit_limit": rate_limit.limit,
        "rate_limit_period": rate_limit.period // MICROSECOND,
    }


def _rate_limit_from(flat: Mapping[str, Any]) -> RateLimit | None:
    limit = flat.get("rate_limit_limit")
    if limit is None:
        return None
    return RateLimit(limit, timedelta(microseconds=flat["rate_limit_period"]))


def _flat_restrictions(restrictions: Restrictions) -> RowDict:
    if restrictions is UNRESTRICTED:
        return {}
    return _without_unset(
        {
            "allowed_ips": list(restrictions.allowed_ips),
            "allowed_referrers": list(restrictions.allowed_referrers),
            "android_apps": [
                {"package": app.package, "sha1": app.sha1} for app in restrictions.android_apps
            ],
            "ios_bundle_ids": list(restrictions.ios_bundle_ids),
            "api_targets": [
                {"service": target.service, "methods": list(target.methods)}
                for target in restrictions.api_targets
            ],
        }
    )


def _restrictions_from(flat: Mapping[str, Any] | None) -> Restrictions:
    if not flat:
        return UNRESTRICTED
    return Restrictions(
        allowed_ips=tuple(flat.get("allowed_ips", ())),
        allowed_referrers=tuple(flat.get("allowed_referrers", ())),
        android_apps=tuple(
            AndroidApp(app["package"], app["sha1"]) for app in flat.get("android_apps", ())
        ),
        ios_bundle_ids=tuple(flat.get("ios_bundle_ids", ())),
        api_targets=tuple(
            ApiTargetRestriction(target["service"], tuple(target["methods"]))
            for target in flat.get("api_targets", ())
        ),
    )
