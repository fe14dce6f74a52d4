"""Key requests of KeyAuthorityService, and their results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from keyauthority import convert
from keyauthority._requests.arguments import (
    as_invalid_argument,
    parse_enum,
    request_id_or_new,
    texts,
    update_mask,
)
from keyauthority.model import (
    ImportSet,
    Key,
    KeyKind,
    KeyMode,
    KeyState,
    Quota,
    RateLimit,
    Restrictions,
    RevokeReason,
)
from keyauthority.requests import (
    ImportedKey,
    KeyFilter,
    KeyUpdate,
    NewKey,
    Revocation,
    Rotation,
    Unchanged,
)
from keyauthority.v1 import key_authority_service_pb2 as service_pb2


@as_invalid_argument
def create_key(
    project_id: str,
    *,
    mode: KeyMode | str | None,
    kind: KeyKind | str,
    purpose: str,
    permissions: Sequence[str],
    restrictions: Restrictions,
    expire_time: datetime | None,
    ttl: timedelta | None,
    rate_limit: RateLimit | None,
    quota: Quota | None,
    labels: Mapping[str, str] | None,
    operator_projects: Sequence[str],
    request_id: str | None,
) -> service_pb2.CreateKeyRequest:
    """Return the request of CreateKey."""
    return convert.new_key_to_proto(
        NewKey(
            project_id=project_id,
            mode=parse_enum(KeyMode, mode, "mode"),
            kind=parse_enum(KeyKind, kind, "kind"),
            purpose=purpose,
            permissions=texts(permissions, "permissions"),
            restrictions=_listed(restrictions),
            expire_time=expire_time,
            ttl=ttl,
            rate_limit=rate_limit,
            quota=quota,
            labels=labels or {},
            operator_projects=texts(operator_projects, "operator_projects"),
            request_id=request_id_or_new(request_id),
        )
    )


@as_invalid_argument
def get_key(access_key: str) -> service_pb2.GetKeyRequest:
    """Return the request of GetKey."""
    return service_pb2.GetKeyRequest(access_key=access_key)


def key_filter(
    *,
    mode: KeyMode | str | None,
    kind: KeyKind | str | None,
    state: KeyState | str | None,
    labels: Mapping[str, str] | None,
    expires_before: datetime | None,
    used_before: datetime | None,
    never_used: bool,
    import_set: str,
) -> KeyFilter:
    """Return the filter of ListKeys. Raises InvalidArgument for an unknown enum value."""
    return KeyFilter(
        mode=parse_enum(KeyMode, mode, "filter.mode"),
        kind=parse_enum(KeyKind, kind, "filter.kind"),
        state=parse_enum(KeyState, state, "filter.state"),
        labels=labels or {},
        expires_before=expires_before,
        used_before=used_before,
        never_used=never_used,
        import_set=import_set,
    )


@as_invalid_argument
def list_keys(
    project_id: str, key_filter: KeyFilter, page_size: int, page_token: str
) -> service_pb2.ListKeysRequest:
    """Return the request of ListKeys."""
    return service_pb2.ListKeysRequest(
        project_id=project_id,
        filter=convert.key_filter_to_proto(key_filter),
        page_size=page_size,
        page_token=page_token,
    )


@as_invalid_argument
def update_key(
    access_key: str,
    *,
    purpose: str | Unchanged | None,
    permissions: Sequence[str] | Unchanged | None,
    restrictions: Restrictions | Unchanged | None,
    expire_time: datetime | Unchanged | None,
    rate_limit: RateLimit | Unchanged | None,
    quota: Quota | Unchanged | None,
    labels: Mapping[str, str] | Unchanged | None,
    disabled: bool | Unchanged,
    etag: str,
) -> service_pb2.UpdateKeyRequest:
    """Return the request of UpdateKey."""
    paths, values = update_mask(
        {
            "purpose": purpose,
            "permissions": permissions,
            "restrictions": restrictions,
            "expire_time": expire_time,
            "rate_limit": rate_limit,
            "quota": quota,
            "labels": labels,
            "disabled": disabled,
        }
    )
    if "permissions" in values:
        values["permissions"] = texts(values["permissions"], "permissions")
    if "restrictions" in values:
        _listed(values["restrictions"])
    return convert.key_update_to_proto(
        KeyUpdate(access_key=access_key, paths=paths, etag=etag, **values)
    )


@as_invalid_argument
def rotate_key(
    access_key: str,
    overlap: timedelta | None,
    expire_time: datetime | None,
    request_id: str | None,
) -> service_pb2.RotateKeyRequest:
    """Return the request of RotateKey."""
    return convert.rotation_to_proto(
        Rotation(
            access_key=access_key,
            overlap=overlap,
            expire_time=expire_time,
            request_id=request_id_or_new(request_id),
        )
    )


@as_invalid_argument
def revoke_key(
    access_key: str | None, secret_key: str | None, reason: RevokeReason | str | None, note: str
) -> service_pb2.RevokeKeyRequest:
    """Return the request of RevokeKey."""
    return convert.revocation_to_proto(
        Revocation(
            access_key=access_key or "",
            secret_key=secret_key or "",
            reason=parse_enum(RevokeReason, reason, "reason"),
            note=note,
        )
    )


@as_invalid_argument
def import_keys(
    import_set: ImportSet, keys: Iterable[ImportedKey], validate_only: bool
) -> service_pb2.ImportKeysRequest:
    """Return the request of ImportKeys."""
    return convert.import_to_proto(import_set, keys, validate_only=validate_only)


def key_of(response: service_pb2.GetKeyResponse) -> Key:
    """Return the result of GetKey."""
    return convert.key_from_proto(response.key)


def _listed(restrictions: Restrictions) -> Restrictions:
    """Return the restrictions. Raises TypeError for a string in place of a list."""
    for name in ("allowed_ips", "allowed_referrers", "ios_bundle_ids"):
        texts(getattr(restrictions, name), f"restrictions.{name}")
    return restrictions
