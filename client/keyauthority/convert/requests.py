"""Create, list and revoke requests <-> proto; other modules hold the remaining requests.

Reading raises InvalidArgument, naming the field, for values outside the model: unknown enum
numbers, times and durations out of range. The server checks all other rules of the contract.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from google.protobuf.message import Message

from keyauthority.convert.enums import (
    KIND_FROM_PROTO,
    KIND_TO_PROTO,
    MODE_FROM_PROTO,
    MODE_TO_PROTO,
    REVOKE_REASON_FROM_PROTO,
    REVOKE_REASON_TO_PROTO,
    STATE_FROM_PROTO,
    STATE_TO_PROTO,
    number_of,
)
from keyauthority.convert.records import (
    quota_from_proto,
    quota_to_proto,
    rate_limit_from_proto,
    rate_limit_to_proto,
    restrictions_from_proto,
    restrictions_to_proto,
)
from keyauthority.convert.times import duration, timestamp, to_datetime, to_timedelta
from keyauthority.errors import bad_field
from keyauthority.model import Quota, RateLimit
from keyauthority.requests import KeyFilter, NewKey, NewProject, Revocation
from keyauthority.v1 import key_authority_service_pb2 as service_pb2
from keyauthority.v1 import project_service_pb2

E = TypeVar("E")
N = TypeVar("N", bound=int)
P = TypeVar("P")
T = TypeVar("T")


def optional(table: Mapping[N, E], number: N, field: str) -> E | None:
    """Return the enum member; None for UNSPECIFIED. Raises InvalidArgument if unknown."""
    if number == 0:
        return None
    value = table.get(number)
    if value is None:
        raise bad_field(field, "is not a value of its enum")
    return value


def read(convert: Callable[[P], T], proto: P, field: str) -> T:
    """Return `convert(proto)`; raise its ValueError as InvalidArgument for the field."""
    try:
        return convert(proto)
    except ValueError as error:
        raise bad_field(field, str(error)) from None


def read_if_given(
    convert: Callable[[Any], T], proto: Message, field: str, name: str | None = None
) -> T | None:
    """Return the field as `read` does; None if it is unset.

    The error names the field `name` (default: its own name).
    """
    if not proto.HasField(field):
        return None
    return read(convert, getattr(proto, field), name or field)


def rate_limit_if_given(proto: Message) -> RateLimit | None:
    """Return the rate_limit of the request, or None. Raises InvalidArgument for a bad period."""
    return read_if_given(rate_limit_from_proto, proto, "rate_limit", "rate_limit.period")


def quota_if_given(proto: Message) -> Quota | None:
    """Return the quota of the request, or None. Raises InvalidArgument for a bad period."""
    return read_if_given(quota_from_proto, proto, "quota", "quota.period")


def new_key_to_proto(new: NewKey) -> service_pb2.CreateKeyRequest:
    """Return the request as a proto. Raises ValueError if both expire_time and ttl are set."""
    if new.expire_time is not None and new.ttl is not None:
        raise ValueError("expire_time or ttl, not both")
    return service_pb2.CreateKeyRequest(
        project_id=new.project_id,
        mode=number_of(MODE_TO_PROTO, new.mode),
        kind=number_of(KIND_TO_PROTO, new.kind),
        purpose=new.purpose,
        permissions=new.permissions,
        restrictions=restrictions_to_proto(new.restrictions),
        expire_time=timestamp(new.expire_time),
        ttl=duration(new.ttl),
        rate_limit=rate_limit_to_proto(new.rate_limit),
        quota=quota_to_proto(new.quota),
        labels=new.labels,
        operator_projects=new.operator_projects,
        request_id=new.request_id,
    )


def new_key_from_proto(proto: service_pb2.CreateKeyRequest) -> NewKey:
    """Return the request. Raises InvalidArgument; see the module."""
    return NewKey(
        project_id=proto.project_id,
        mode=optional(MODE_FROM_PROTO, proto.mode, "mode"),
        kind=optional(KIND_FROM_PROTO, proto.kind, "kind"),
        purpose=proto.purpose,
        permissions=tuple(proto.permissions),
        restrictions=restrictions_from_proto(proto.restrictions),
        expire_time=read_if_given(to_datetime, proto, "expire_time"),
        ttl=read_if_given(to_timedelta, proto, "ttl"),
        rate_limit=rate_limit_if_given(proto),
        quota=quota_if_given(proto),
        labels=dict(proto.labels),
        operator_projects=tuple(proto.operator_projects),
        request_id=proto.request_id,
    )


def new_project_to_proto(new: NewProject) -> project_service_pb2.CreateProjectRequest:
    """Return the request as a proto."""
    return project_service_pb2.CreateProjectRequest(
        display_name=new.display_name,
        labels=new.labels,
        rate_limit=rate_limit_to_proto(new.rate_limit),
        request_id=new.request_id,
    )


def new_project_from_proto(proto: project_service_pb2.CreateProjectRequest) -> NewProject:
    """Return the request. Raises InvalidArgument; see the module."""
    return NewProject(
        display_name=proto.display_name,
        labels=dict(proto.labels),
        rate_limit=rate_limit_if_given(proto),
        request_id=proto.request_id,
    )


def revocation_to_proto(revocation: Revocation) -> service_pb2.RevokeKeyRequest:
    """Return the request as a proto."""
    return service_pb2.RevokeKeyRequest(
        access_key=revocation.access_key,
        secret_key=revocation.secret_key,
        reason=number_of(REVOKE_REASON_TO_PROTO, revocation.reason),
        note=revocation.note,
    )


def revocation_from_proto(proto: service_pb2.RevokeKeyRequest) -> Revocation:
    """Return the request. Raises InvalidArgument; see the module."""
    return Revocation(
        access_key=proto.access_key,
        secret_key=proto.secret_key,
        reason=optional(REVOKE_REASON_FROM_PROTO, proto.reason, "reason"),
        note=proto.note,
    )


def key_filter_to_proto(wanted: KeyFilter) -> service_pb2.KeyFilter:
    """Return the filter as a proto."""
    return service_pb2.KeyFilter(
        mode=number_of(MODE_TO_PROTO, wanted.mode),
        kind=number_of(KIND_TO_PROTO, wanted.kind),
        state=number_of(STATE_TO_PROTO, wanted.state),
        labels=wanted.labels,
        expires_before=timestamp(wanted.expires_before),
        used_before=timestamp(wanted.used_before),
        never_used=wanted.never_used,
        import_set=wanted.import_set,
    )


def key_filter_from_proto(proto: service_pb2.KeyFilter) -> KeyFilter:
    """Return the filter. Raises InvalidArgument; see the module. Fields are named `filter.…`."""
    return KeyFilter(
        mode=optional(MODE_FROM_PROTO, proto.mode, "filter.mode"),
        kind=optional(KIND_FROM_PROTO, proto.kind, "filter.kind"),
        state=optional(STATE_FROM_PROTO, proto.state, "filter.state"),
        labels=dict(proto.labels),
        expires_before=read_if_given(to_datetime, proto, "expires_before", "filter.expires_before"),
        used_before=read_if_given(to_datetime, proto, "used_before", "filter.used_before"),
        never_used=proto.never_used,
        import_set=proto.import_set,
    )
