"""Update requests <-> proto: UpdateKey, RotateKey, UpdateProject.

Reading raises InvalidArgument as in `requests`. The paths of a mask are not validated here; the
server checks them.
"""

from __future__ import annotations

from google.protobuf.field_mask_pb2 import FieldMask

from keyauthority.convert.records import (
    quota_to_proto,
    rate_limit_to_proto,
    restrictions_from_proto,
    restrictions_to_proto,
)
from keyauthority.convert.requests import quota_if_given, rate_limit_if_given, read_if_given
from keyauthority.convert.times import duration, timestamp, to_datetime, to_timedelta
from keyauthority.requests import KeyUpdate, ProjectUpdate, Rotation
from keyauthority.v1 import key_authority_service_pb2 as service_pb2
from keyauthority.v1 import project_service_pb2


def key_update_to_proto(update: KeyUpdate) -> service_pb2.UpdateKeyRequest:
    """Return the request as a proto, its paths in alphabetical order."""
    return service_pb2.UpdateKeyRequest(
        access_key=update.access_key,
        purpose=update.purpose,
        permissions=update.permissions,
        restrictions=restrictions_to_proto(update.restrictions),
        expire_time=timestamp(update.expire_time),
        rate_limit=rate_limit_to_proto(update.rate_limit),
        quota=quota_to_proto(update.quota),
        labels=update.labels,
        disabled=update.disabled,
        update_mask=_mask(update.paths),
        etag=update.etag,
    )


def key_update_from_proto(proto: service_pb2.UpdateKeyRequest) -> KeyUpdate:
    """Return the request. Raises InvalidArgument; see the module."""
    return KeyUpdate(
        access_key=proto.access_key,
        paths=frozenset(proto.update_mask.paths),
        purpose=proto.purpose,
        permissions=tuple(proto.permissions),
        restrictions=restrictions_from_proto(proto.restrictions),
        expire_time=read_if_given(to_datetime, proto, "expire_time"),
        rate_limit=rate_limit_if_given(proto),
        quota=quota_if_given(proto),
        labels=dict(proto.labels),
        disabled=proto.disabled,
        etag=proto.etag,
    )


def project_update_to_proto(update: ProjectUpdate) -> project_service_pb2.UpdateProjectRequest:
    """Return the request as a proto, its paths in alphabetical order."""
    return project_service_pb2.UpdateProjectRequest(
        project_id=update.project_id,
        display_name=update.display_name,
        labels=update.labels,
        suspended=update.suspended,
        rate_limit=rate_limit_to_proto(update.rate_limit),
        update_mask=_mask(update.paths),
        etag=update.etag,
    )


def project_update_from_proto(proto: project_service_pb2.UpdateProjectRequest) -> ProjectUpdate:
    """Return the request. Raises InvalidArgument; see the module."""
    return ProjectUpdate(
        project_id=proto.project_id,
        paths=frozenset(proto.update_mask.paths),
        display_name=proto.display_name,
        labels=dict(proto.labels),
        suspended=proto.suspended,
        rate_limit=rate_limit_if_given(proto),
        etag=proto.etag,
    )


def rotation_to_proto(rotation: Rotation) -> service_pb2.RotateKeyRequest:
    """Return the request as a proto; an overlap of None is left unset, unlike 0."""
    return service_pb2.RotateKeyRequest(
        access_key=rotation.access_key,
        overlap=duration(rotation.overlap),
        expire_time=timestamp(rotation.expire_time),
        request_id=rotation.request_id,
    )


def rotation_from_proto(proto: service_pb2.RotateKeyRequest) -> Rotation:
    """Return the request. Raises InvalidArgument; see the module."""
    return Rotation(
        access_key=proto.access_key,
        overlap=read_if_given(to_timedelta, proto, "overlap"),
        expire_time=read_if_given(to_datetime, proto, "expire_time"),
        request_id=proto.request_id,
    )


def _mask(paths: frozenset[str]) -> FieldMask:
    return FieldMask(paths=sorted(paths))
