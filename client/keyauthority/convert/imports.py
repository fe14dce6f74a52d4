"""ImportKeys <-> proto."""

from __future__ import annotations

from collections.abc import Iterable

from keyauthority.convert.enums import (
    IMPORT_SCHEME_FROM_PROTO,
    IMPORT_SCHEME_TO_PROTO,
    KIND_FROM_PROTO,
    KIND_TO_PROTO,
    MODE_FROM_PROTO,
    MODE_TO_PROTO,
    REASON_FROM_NAME,
    REASON_TO_NAME,
    TOKEN_PART_FROM_PROTO,
    TOKEN_PART_TO_PROTO,
    number_of,
)
from keyauthority.convert.records import (
    quota_to_proto,
    rate_limit_to_proto,
    restrictions_from_proto,
    restrictions_to_proto,
)
from keyauthority.convert.requests import (
    optional,
    quota_if_given,
    rate_limit_if_given,
    read_if_given,
)
from keyauthority.convert.times import timestamp, to_datetime
from keyauthority.errors import bad_field
from keyauthority.model import ImportSet, TokenPart
from keyauthority.requests import ImportedKey
from keyauthority.results import ImportedKeys, ImportFailure, ImportResult
from keyauthority.v1 import key_authority_service_pb2 as service_pb2


def import_set_to_proto(wanted: ImportSet) -> service_pb2.ImportSet:
    """Return the import set as a proto."""
    return service_pb2.ImportSet(
        name=wanted.name,
        scheme=IMPORT_SCHEME_TO_PROTO[wanted.scheme],
        token_part=TOKEN_PART_TO_PROTO[wanted.token_part],
        token_prefix=wanted.token_prefix,
        token_length_min=wanted.token_length_min,
        token_length_max=wanted.token_length_max,
    )


def import_set_from_proto(proto: service_pb2.ImportSet) -> ImportSet:
    """Return the import set. Raises InvalidArgument; fields are named `import_set.…`."""
    scheme = optional(IMPORT_SCHEME_FROM_PROTO, proto.scheme, "import_set.scheme")
    if scheme is None:
        raise bad_field("import_set.scheme", "required")
    part = optional(TOKEN_PART_FROM_PROTO, proto.token_part, "import_set.token_part")
    return ImportSet(
        name=proto.name,
        scheme=scheme,
        token_part=part or TokenPart.WHOLE,
        token_prefix=proto.token_prefix,
        token_length_min=proto.token_length_min,
        token_length_max=proto.token_length_max,
    )


def imported_key_to_proto(key: ImportedKey) -> service_pb2.ImportedKey:
    """Return the key as a proto."""
    return service_pb2.ImportedKey(
        digest=key.digest,
        foreign_id=key.foreign_id,
        project_id=key.project_id,
        mode=number_of(MODE_TO_PROTO, key.mode),
        kind=number_of(KIND_TO_PROTO, key.kind),
        purpose=key.purpose,
        permissions=key.permissions,
        restrictions=restrictions_to_proto(key.restrictions),
        expire_time=timestamp(key.expire_time),
        rate_limit=rate_limit_to_proto(key.rate_limit),
        quota=quota_to_proto(key.quota),
        labels=key.labels,
    )


def imported_key_from_proto(proto: service_pb2.ImportedKey) -> ImportedKey:
    """Return the key. Raises InvalidArgument."""
    return ImportedKey(
        digest=proto.digest,
        foreign_id=proto.foreign_id,
        project_id=proto.project_id,
        mode=optional(MODE_FROM_PROTO, proto.mode, "mode"),
        kind=optional(KIND_FROM_PROTO, proto.kind, "kind"),
        purpose=proto.purpose,
        permissions=tuple(proto.permissions),
        restrictions=restrictions_from_proto(proto.restrictions),
        expire_time=read_if_given(to_datetime, proto, "expire_time"),
        rate_limit=rate_limit_if_given(proto),
        quota=quota_if_given(proto),
        labels=dict(proto.labels),
    )


def import_to_proto(
    wanted: ImportSet, keys: Iterable[ImportedKey], *, validate_only: bool
) -> service_pb2.ImportKeysRequest:
    """Return the request of ImportKeys as a proto."""
    return service_pb2.ImportKeysRequest(
        import_set=import_set_to_proto(wanted),
        keys=map(imported_key_to_proto, keys),
        validate_only=validate_only,
    )


def imported_keys_to_proto(imported: ImportedKeys) -> service_pb2.ImportKeysResponse:
    """Return the response of ImportKeys as a proto."""
    return service_pb2.ImportKeysResponse(
        results=[
            service_pb2.ImportResult(
                access_key=result.access_key,
                created=result.created,
                error=_failure_to_proto(result.error),
            )
            for result in imported.results
        ],
        revision=imported.revision,
        log_id=imported.log_id,
    )


def imported_keys_from_proto(proto: service_pb2.ImportKeysResponse) -> ImportedKeys:
    """Return the response of ImportKeys."""
    return ImportedKeys(
        results=tuple(
            ImportResult(
                access_key=result.access_key,
                created=result.created,
                error=_failure_from_proto(result.error) if result.HasField("error") else None,
            )
            for result in proto.results
        ),
        revision=proto.revision,
        log_id=proto.log_id,
    )


def _failure_to_proto(failure: ImportFailure | None) -> service_pb2.ImportError | None:
    if failure is None:
        return None
    reason = REASON_TO_NAME[failure.reason] if failure.reason else ""
    return service_pb2.ImportError(reason=reason, message=failure.message)


def _failure_from_proto(proto: service_pb2.ImportError) -> ImportFailure:
    return ImportFailure(reason=REASON_FROM_NAME.get(proto.reason), message=proto.message)
