"""Results of calls <-> proto; for Verify see `verification`."""

from __future__ import annotations

from keyauthority.convert.enums import STATE_FROM_PROTO, STATE_TO_PROTO, number_of
from keyauthority.convert.records import (
    key_from_proto,
    key_to_proto,
    project_from_proto,
    project_to_proto,
)
from keyauthority.convert.times import timestamp, to_datetime
from keyauthority.model import Key, Project
from keyauthority.results import (
    CallerIdentity,
    CreatedKey,
    KeyLookup,
    Page,
    RevokedKey,
    RotatedKey,
    WrittenKey,
    WrittenProject,
)
from keyauthority.token import SecretKey
from keyauthority.v1 import key_authority_service_pb2 as service_pb2
from keyauthority.v1 import key_pb2, project_service_pb2


def created_key_to_proto(created: CreatedKey) -> service_pb2.CreateKeyResponse:
    """Return the response of CreateKey as a proto: the token in clear."""
    return service_pb2.CreateKeyResponse(
        key=key_to_proto(created.key),
        secret_key=created.secret_key.reveal(),
        revision=created.revision,
        log_id=created.log_id,
    )


def created_key_from_proto(proto: service_pb2.CreateKeyResponse) -> CreatedKey:
    """Return the response of CreateKey. Raises ValueError for an invalid record."""
    return CreatedKey(
        key=key_from_proto(proto.key),
        secret_key=SecretKey(proto.secret_key),
        revision=proto.revision,
        log_id=proto.log_id,
    )


def written_key_to_proto(written: WrittenKey) -> service_pb2.UpdateKeyResponse:
    """Return the response of UpdateKey as a proto."""
    return service_pb2.UpdateKeyResponse(
        key=key_to_proto(written.key), revision=written.revision, log_id=written.log_id
    )


def written_key_from_proto(proto: service_pb2.UpdateKeyResponse) -> WrittenKey:
    """Return the response of UpdateKey. Raises ValueError for an invalid record."""
    return WrittenKey(key=key_from_proto(proto.key), revision=proto.revision, log_id=proto.log_id)


def key_lookup_to_proto(lookup: KeyLookup) -> service_pb2.LookupKeyResponse:
    """Return the response of LookupKey as a proto."""
    return service_pb2.LookupKeyResponse(
        key=key_to_proto(lookup.key),
        project=project_to_proto(lookup.project) if lookup.project else None,
    )


def key_lookup_from_proto(proto: service_pb2.LookupKeyResponse) -> KeyLookup:
    """Return the response of LookupKey. Raises ValueError for an invalid record."""
    return KeyLookup(
        key=key_from_proto(proto.key),
        project=project_from_proto(proto.project) if proto.HasField("project") else None,
    )


def caller_identity_to_proto(caller: CallerIdentity) -> service_pb2.GetCallerResponse:
    """Return the response of GetCaller as a proto."""
    return service_pb2.GetCallerResponse(
        access_key=caller.access_key,
        certificate_name=caller.certificate_name,
        permissions=caller.permissions,
        operator_projects=caller.operator_projects,
        allowed_ips=caller.allowed_ips,
        expire_time=timestamp(caller.expire_time),
    )


def caller_identity_from_proto(proto: service_pb2.GetCallerResponse) -> CallerIdentity:
    """Return the response of GetCaller. Raises ValueError for an invalid time."""
    return CallerIdentity(
        access_key=proto.access_key,
        certificate_name=proto.certificate_name,
        permissions=tuple(proto.permissions),
        operator_projects=tuple(proto.operator_projects),
        allowed_ips=tuple(proto.allowed_ips),
        expire_time=to_datetime(proto.expire_time) if proto.HasField("expire_time") else None,
    )


def rotated_key_to_proto(rotated: RotatedKey) -> service_pb2.RotateKeyResponse:
    """Return the response of RotateKey as a proto: the successor's token in clear."""
    return service_pb2.RotateKeyResponse(
        key=key_to_proto(rotated.key),
        secret_key=rotated.secret_key.reveal(),
        previous=key_to_proto(rotated.previous),
        revision=rotated.revision,
        log_id=rotated.log_id,
    )


def rotated_key_from_proto(proto: service_pb2.RotateKeyResponse) -> RotatedKey:
    """Return the response of RotateKey. Raises ValueError for an invalid record."""
    return RotatedKey(
        key=key_from_proto(proto.key),
        secret_key=SecretKey(proto.secret_key),
        previous=key_from_proto(proto.previous),
        revision=proto.revision,
        log_id=proto.log_id,
    )


def revoked_key_to_proto(revoked: RevokedKey) -> service_pb2.RevokeKeyResponse:
    """Return the response of RevokeKey as a proto.

    Its key is the whole record, or after a revocation by secret the fields shown to the bearer:
    access_key, project_id, state, revoke_time and revision.
    """
    return service_pb2.RevokeKeyResponse(
        key=(
            key_to_proto(revoked.key, revoked.state)
            if revoked.key is not None
            else key_pb2.Key(
                access_key=revoked.access_key,
                project_id=revoked.project_id,
                state=number_of(STATE_TO_PROTO, revoked.state),
                revoke_time=timestamp(revoked.revoke_time),
                revision=revoked.key_revision,
            )
        ),
        revision=revoked.revision,
        log_id=revoked.log_id,
    )


def revoked_key_from_proto(proto: service_pb2.RevokeKeyResponse) -> RevokedKey:
    """Return the response of RevokeKey. Raises ValueError for an invalid record."""
    key = proto.key
    return RevokedKey(
        access_key=key.access_key,
        project_id=key.project_id,
        state=STATE_FROM_PROTO.get(key.state),
        revoke_time=to_datetime(key.revoke_time) if key.HasField("revoke_time") else None,
        key_revision=key.revision,
        key=key_from_proto(key) if key.mode != key_pb2.KEY_MODE_UNSPECIFIED else None,
        revision=proto.revision,
        log_id=proto.log_id,
    )


def created_project_to_proto(
    written: WrittenProject,
) -> project_service_pb2.CreateProjectResponse:
    """Return the response of CreateProject as a proto."""
    return project_service_pb2.CreateProjectResponse(
        project=project_to_proto(written.project),
        revision=written.revision,
        log_id=written.log_id,
    )


def written_project_to_proto(
    written: WrittenProject,
) -> project_service_pb2.UpdateProjectResponse:
    """Return the response of UpdateProject as a proto."""
    return project_service_pb2.UpdateProjectResponse(
        project=project_to_proto(written.project),
        revision=written.revision,
        log_id=written.log_id,
    )


def written_project_from_proto(
    proto: project_service_pb2.CreateProjectResponse | project_service_pb2.UpdateProjectResponse,
) -> WrittenProject:
    """Return the response of either call. Raises ValueError for an invalid record."""
    return WrittenProject(
        project=project_from_proto(proto.project), revision=proto.revision, log_id=proto.log_id
    )


def key_page_to_proto(page: Page[Key]) -> service_pb2.ListKeysResponse:
    """Return the response of ListKeys as a proto; each key in its own state."""
    return service_pb2.ListKeysResponse(
        keys=map(key_to_proto, page.items), next_page_token=page.next_page_token
    )


def key_page_from_proto(proto: service_pb2.ListKeysResponse) -> Page[Key]:
    """Return the response of ListKeys. Raises ValueError for an invalid record."""
    return Page(tuple(map(key_from_proto, proto.keys)), proto.next_page_token)


def project_page_to_proto(page: Page[Project]) -> project_service_pb2.ListProjectsResponse:
    """Return the response of ListProjects as a proto."""
    return project_service_pb2.ListProjectsResponse(
        projects=map(project_to_proto, page.items), next_page_token=page.next_page_token
    )


def project_page_from_proto(proto: project_service_pb2.ListProjectsResponse) -> Page[Project]:
    """Return the response of ListProjects. Raises ValueError for an invalid record."""
    return Page(tuple(map(project_from_proto, proto.projects)), proto.next_page_token)
