"""Records <-> proto: keys, projects, their parts, and changes.

Reading raises ValueError for a record that lacks a required field or has an unknown value in one.
An unknown value of an optional field becomes None.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from keyauthority.convert.enums import (
    CHANGE_TYPE_FROM_PROTO,
    CHANGE_TYPE_TO_PROTO,
    KIND_FROM_PROTO,
    KIND_TO_PROTO,
    MODE_FROM_PROTO,
    MODE_TO_PROTO,
    QUOTA_PERIOD_FROM_PROTO,
    QUOTA_PERIOD_TO_PROTO,
    REVOKE_REASON_FROM_PROTO,
    REVOKE_REASON_TO_PROTO,
    STATE_FROM_PROTO,
    STATE_TO_PROTO,
    number_of,
)
from keyauthority.convert.times import duration, timestamp, to_datetime, to_timedelta
from keyauthority.model import (
    UNRESTRICTED,
    AndroidApp,
    ApiTargetRestriction,
    Change,
    Key,
    KeyState,
    Labels,
    Project,
    Quota,
    RateLimit,
    Restrictions,
)
from keyauthority.v1 import key_authority_service_pb2 as service_pb2
from keyauthority.v1 import key_pb2

E = TypeVar("E")
N = TypeVar("N", bound=int)


def _known(table: Mapping[N, E], number: N, field: str) -> E:
    value = table.get(number)
    if value is None:
        raise ValueError(f"{field}: {number} is not a value that this version knows")
    return value


def key_to_proto(key: Key, state: KeyState | None = None) -> key_pb2.Key:
    """Return the key as a proto, in `state` (default: the state of the record)."""
    state = state or key.state
    return key_pb2.Key(
        access_key=key.access_key,
        project_id=key.project_id,
        mode=MODE_TO_PROTO[key.mode],
        kind=KIND_TO_PROTO[key.kind],
        purpose=key.purpose,
        permissions=key.permissions,
        restrictions=restrictions_to_proto(key.restrictions),
        rate_limit=rate_limit_to_proto(key.rate_limit),
        quota=quota_to_proto(key.quota),
        labels=key.labels,
        state=number_of(STATE_TO_PROTO, state),
        disabled=key.disabled,
        create_time=timestamp(key.create_time),
        update_time=timestamp(key.update_time),
        expire_time=timestamp(key.expire_time),
        supersede_time=timestamp(key.supersede_time),
        revoke_time=timestamp(key.revoke_time),
        revoke_reason=number_of(REVOKE_REASON_TO_PROTO, key.revoke_reason),
        revoke_note=key.revoke_note,
        last_used_time=timestamp(key.last_used_time),
        created_by=key.created_by,
        created_from=key.created_from,
        predecessor_access_key=key.predecessor_access_key,
        successor_access_key=key.successor_access_key,
        publishable_key=key.publishable_key,
        operator_projects=key.operator_projects,
        import_set=key.import_set,
        foreign_id=key.foreign_id,
        etag=key.etag,
        revision=key.revision,
    )


def key_from_proto(proto: key_pb2.Key) -> Key:
    """Return the key. Raises ValueError for an unknown mode or kind, or an invalid time."""
    has = proto.HasField
    return Key(
        access_key=proto.access_key,
        project_id=proto.project_id,
        mode=_known(MODE_FROM_PROTO, proto.mode, "mode"),
        kind=_known(KIND_FROM_PROTO, proto.kind, "kind"),
        purpose=proto.purpose,
        permissions=tuple(proto.permissions),
        restrictions=restrictions_from_proto(proto.restrictions),
        rate_limit=rate_limit_from_proto(proto.rate_limit) if has("rate_limit") else None,
        quota=quota_from_proto(proto.quota) if has("quota") else None,
        labels=Labels(proto.labels),
        state=STATE_FROM_PROTO.get(proto.state),
        disabled=proto.disabled,
        create_time=to_datetime(proto.create_time),
        update_time=to_datetime(proto.update_time),
        expire_time=to_datetime(proto.expire_time) if has("expire_time") else None,
        supersede_time=to_datetime(proto.supersede_time) if has("supersede_time") else None,
        revoke_time=to_datetime(proto.revoke_time) if has("revoke_time") else None,
        revoke_reason=REVOKE_REASON_FROM_PROTO.get(proto.revoke_reason),
        revoke_note=proto.revoke_note,
        last_used_time=to_datetime(proto.last_used_time) if has("last_used_time") else None,
        created_by=proto.created_by,
        created_from=proto.created_from,
        predecessor_access_key=proto.predecessor_access_key,
        successor_access_key=proto.successor_access_key,
        publishable_key=proto.publishable_key,
        operator_projects=tuple(proto.operator_projects),
        import_set=proto.import_set,
        foreign_id=proto.foreign_id,
        revision=proto.revision,
    )


def project_to_proto(project: Project) -> key_pb2.Project:
    """Return the project as a proto."""
    return key_pb2.Project(
        project_id=project.project_id,
        display_name=project.display_name,
        labels=project.labels,
        suspended=project.suspended,
        rate_limit=rate_limit_to_proto(project.rate_limit),
        create_time=timestamp(project.create_time),
        update_time=timestamp(project.update_time),
        etag=project.etag,
        revision=project.revision,
    )


def project_from_proto(proto: key_pb2.Project) -> Project:
    """Return the project. Raises ValueError for an invalid time or duration."""
    return Project(
        project_id=proto.project_id,
        display_name=proto.display_name,
        labels=Labels(proto.labels),
        suspended=proto.suspended,
        rate_limit=rate_limit_from_proto(proto.rate_limit)
        if proto.HasField("rate_limit")
        else None,
        create_time=to_datetime(proto.create_time),
        update_time=to_datetime(proto.update_time),
        revision=proto.revision,
    )


def restrictions_to_proto(restrictions: Restrictions) -> key_pb2.Restrictions | None:
    """Return the restrictions as a proto; None if nothing is restricted."""
    if restrictions == UNRESTRICTED:
        return None
    return key_pb2.Restrictions(
        allowed_ips=restrictions.allowed_ips,
        allowed_referrers=restrictions.allowed_referrers,
        android_apps=[
            key_pb2.AndroidApp(package=app.package, sha1=app.sha1)
            for app in restrictions.android_apps
        ],
        ios_bundle_ids=restrictions.ios_bundle_ids,
        api_targets=[
            key_pb2.ApiTargetRestriction(service=target.service, methods=target.methods)
            for target in restrictions.api_targets
        ],
    )


def restrictions_from_proto(proto: key_pb2.Restrictions) -> Restrictions:
    """Return the restrictions unchanged; they are neither validated nor canonicalized."""
    if not proto.ListFields():
        return UNRESTRICTED
    return Restrictions(
        allowed_ips=tuple(proto.allowed_ips),
        allowed_referrers=tuple(proto.allowed_referrers),
        android_apps=tuple(AndroidApp(app.package, app.sha1) for app in proto.android_apps),
        ios_bundle_ids=tuple(proto.ios_bundle_ids),
        api_targets=tuple(
            ApiTargetRestriction(target.service, tuple(target.methods))
            for target in proto.api_targets
        ),
    )


def rate_limit_to_proto(limit: RateLimit | None) -> key_pb2.RateLimit | None:
    """Return the limit as a proto; None for None."""
    if limit is None:
        return None
    return key_pb2.RateLimit(limit=limit.limit, period=duration(limit.period))


def rate_limit_from_proto(proto: key_pb2.RateLimit) -> RateLimit:
    """Return the limit; a missing period is 0. Raises ValueError for an invalid period."""
    return RateLimit(proto.limit, to_timedelta(proto.period))


def quota_to_proto(quota: Quota | None) -> key_pb2.Quota | None:
    """Return the quota as a proto; None for None."""
    if quota is None:
        return None
    return key_pb2.Quota(limit=quota.limit, period=QUOTA_PERIOD_TO_PROTO[quota.period])


def quota_from_proto(proto: key_pb2.Quota) -> Quota:
    """Return the quota. Raises ValueError for an unknown period."""
    return Quota(proto.limit, _known(QUOTA_PERIOD_FROM_PROTO, proto.period, "period"))


def change_to_proto(change: Change) -> service_pb2.Change:
    """Return the change as a proto."""
    return service_pb2.Change(
        revision=change.revision,
        time=timestamp(change.time),
        type=CHANGE_TYPE_TO_PROTO[change.type],
        project_id=change.project_id,
        keys=[key_to_proto(key) for key in change.keys],
        project=project_to_proto(change.project) if change.project else None,
    )


def change_from_proto(proto: service_pb2.Change) -> Change:
    """Return the change. Raises ValueError for an unknown type or an invalid record."""
    return Change(
        revision=proto.revision,
        time=to_datetime(proto.time),
        type=_known(CHANGE_TYPE_FROM_PROTO, proto.type, "type"),
        project_id=proto.project_id,
        keys=tuple(key_from_proto(key) for key in proto.keys),
        project=project_from_proto(proto.project) if proto.HasField("project") else None,
    )
