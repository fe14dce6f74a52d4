"""One pure check for each request type: violations found without reading the store.

Services check rules that need the clock or the store: an expiry in the past, a page token of
another caller.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Final

from google.protobuf.message import Message

from keyauthority import convert
from keyauthority.errors import FieldViolation
from keyauthority.model import KeyKind, KeyMode
from keyauthority.requests import ANY_IMPORT_SET, OVERLAP_MAX, WINDOW_MAX
from keyauthority.restrictions import REFERRER_MAX, canonical_sha1, check_ip
from keyauthority.v1 import advisory_service_pb2 as advisories_pb
from keyauthority.v1 import audit_service_pb2 as audit_pb
from keyauthority.v1 import key_authority_service_pb2 as keys_pb
from keyauthority.v1 import project_service_pb2 as projects_pb
from keyauthority.v1 import usage_service_pb2 as usage_pb
from keyauthority_server.rpc import validate_usage
from keyauthority_server.rpc.field_rules import (
    BATCH_MAX,
    ENTRY_MAX,
    LIST_MAX,
    NO_PROJECT,
    Validator,
    is_uuid,
)

_KEY_PATHS: Final = frozenset(
    {"purpose", "permissions", "restrictions", "expire_time", "disabled"}
    | {"rate_limit", "quota", "labels"}
)
_PROJECT_PATHS: Final = frozenset({"display_name", "labels", "suspended", "rate_limit"})
_NOT_FOR_OPERATOR: Final = "not allowed for kind OPERATOR"


def create_key(request: keys_pb.CreateKeyRequest) -> list[FieldViolation]:
    """Check CreateKey."""
    check = Validator()
    kind = convert.KIND_FROM_PROTO.get(request.kind)
    if kind is None:
        check.refuse("kind", "required: SECRET, RESTRICTED, PUBLISHABLE or OPERATOR")
    check.text("purpose", request.purpose)
    check.labels("labels", request.labels)
    check.grants("permissions", request.permissions)
    check.restrictions(request.restrictions)
    check.rate_limit("rate_limit", request, request.rate_limit)
    check.quota("quota", request, request.quota)
    check.time("expire_time", request, request.expire_time)
    _positive_ttl(check, request)
    check.request_id("request_id", request.request_id)
    if kind is KeyKind.OPERATOR:
        _operator_key(check, request)
    else:
        _project_key(check, request, kind)
    return check.violations


def _positive_ttl(check: Validator, request: keys_pb.CreateKeyRequest) -> None:
    if request.HasField("ttl"):
        try:
            if convert.to_timedelta(request.ttl).total_seconds() <= 0:
                check.refuse("ttl", "must be more than 0")
        except (ValueError, OverflowError):
            check.refuse("ttl", "invalid duration")


def _project_key(check: Validator, request: keys_pb.CreateKeyRequest, kind: KeyKind | None) -> None:
    if check.present("project_id", request.project_id):
        check.project_id("project_id", request.project_id)
    if convert.MODE_FROM_PROTO.get(request.mode) is None:
        check.refuse("mode", "required: TEST or LIVE")
    if kind is KeyKind.SECRET:
        check.absent(
            "permissions",
            request.permissions,
            "must be empty: a SECRET key holds every permission",
        )
    if kind is KeyKind.RESTRICTED and not request.permissions:
        check.refuse("permissions", "required for kind RESTRICTED: at least one")
    check.absent("operator_projects", request.operator_projects, "allowed only for kind OPERATOR")


def _operator_key(check: Validator, request: keys_pb.CreateKeyRequest) -> None:
    description = "must be empty for kind OPERATOR: see operator_projects"
    check.absent("project_id", request.project_id, description)
    if request.mode and convert.MODE_FROM_PROTO.get(request.mode) is not KeyMode.LIVE:
        check.refuse("mode", "must be LIVE for kind OPERATOR")
    if not request.permissions:
        check.refuse("permissions", "required for kind OPERATOR: at least one")
    check.rights("permissions", request.permissions)
    projects = request.operator_projects
    check.each("operator_projects", projects, is_uuid, description=NO_PROJECT)
    for field in ("allowed_referrers", "android_apps", "ios_bundle_ids", "api_targets"):
        value = getattr(request.restrictions, field)
        check.absent(f"restrictions.{field}", value, _NOT_FOR_OPERATOR)
    check.absent("rate_limit", request.HasField("rate_limit"), _NOT_FOR_OPERATOR)
    check.absent("quota", request.HasField("quota"), _NOT_FOR_OPERATOR)


def get_key(request: keys_pb.GetKeyRequest) -> list[FieldViolation]:
    """Check GetKey."""
    check = Validator()
    check.access_key("access_key", request.access_key)
    return check.violations


def list_keys(request: keys_pb.ListKeysRequest) -> list[FieldViolation]:
    """Check ListKeys."""
    check = Validator()
    check.project_id_if_given(request.project_id)
    key_filter = request.filter
    check.enum("filter.mode", key_filter.mode, convert.MODE_FROM_PROTO)
    check.enum("filter.kind", key_filter.kind, convert.KIND_FROM_PROTO)
    check.enum("filter.state", key_filter.state, convert.STATE_FROM_PROTO)
    check.labels("filter.labels", key_filter.labels)
    check.time("filter.expires_before", key_filter, key_filter.expires_before)
    check.time("filter.used_before", key_filter, key_filter.used_before)
    if key_filter.import_set not in ("", ANY_IMPORT_SET):
        check.import_set_name("filter.import_set", key_filter.import_set)
    check.page(request.page_size, request.page_token)
    return check.violations


def update_key(request: keys_pb.UpdateKeyRequest) -> list[FieldViolation]:
    """Check UpdateKey; the service checks the rules of the key's kind."""
    check = Validator()
    check.access_key("access_key", request.access_key)
    named = check.mask(request.update_mask, _KEY_PATHS)
    if "purpose" in named:
        check.text("purpose", request.purpose)
    if "permissions" in named:
        check.grants("permissions", request.permissions)
    if "restrictions" in named:
        check.restrictions(request.restrictions)
    if "expire_time" in named:
        check.time("expire_time", request, request.expire_time)
    if "rate_limit" in named:
        check.rate_limit("rate_limit", request, request.rate_limit)
    if "quota" in named:
        check.quota("quota", request, request.quota)
    if "labels" in named:
        check.labels("labels", request.labels)
    check.text("etag", request.etag)
    return check.violations


def rotate_key(request: keys_pb.RotateKeyRequest) -> list[FieldViolation]:
    """Check RotateKey."""
    check = Validator()
    check.access_key("access_key", request.access_key)
    check.span("overlap", request, request.overlap, timedelta(0), OVERLAP_MAX)
    check.time("expire_time", request, request.expire_time)
    check.request_id("request_id", request.request_id)
    return check.violations


def revoke_key(request: keys_pb.RevokeKeyRequest) -> list[FieldViolation]:
    """Check RevokeKey."""
    check = Validator()
    if request.access_key or not request.secret_key:
        check.access_key("access_key", request.access_key)
    check.enum("reason", request.reason, convert.REVOKE_REASON_FROM_PROTO)
    check.text("note", request.note)
    return check.violations


def verify(request: keys_pb.VerifyRequest) -> list[FieldViolation]:
    """Check Verify. An invalid token is not a violation: its verdict is MALFORMED."""
    check = Validator()
    if request.mode:
        check.enum("mode", request.mode, convert.MODE_FROM_PROTO)
    if request.permissions:
        check.needed("permissions", request.permissions)
    if request.client_ip:
        check.entry("client_ip", request.client_ip, check_ip)
    check.length("access_key", request.access_key, ENTRY_MAX)
    check.length("project_id", request.project_id, ENTRY_MAX)
    check.length("log_id", request.log_id, ENTRY_MAX)
    check.length("referrer", request.referrer, REFERRER_MAX)
    if request.HasField("app"):
        _app(check, request.app)
    if request.HasField("api_target"):
        check.text("api_target.service", request.api_target.service, ENTRY_MAX)
        check.text("api_target.method", request.api_target.method, ENTRY_MAX)
    if request.cost < 0:
        check.refuse("cost", "must not be negative")
    if request.at_least_revision < 0:
        check.refuse("at_least_revision", "must not be negative")
    return check.violations


def _app(check: Validator, app: keys_pb.App) -> None:
    check.text("app.android_package", app.android_package, ENTRY_MAX)
    check.text("app.ios_bundle_id", app.ios_bundle_id, ENTRY_MAX)
    if app.android_sha1:
        check.entry("app.android_sha1", app.android_sha1, canonical_sha1)


def batch_verify(request: keys_pb.BatchVerifyRequest) -> list[FieldViolation]:
    """Check the number of items of BatchVerify; `batch_item` checks each, in time slices."""
    if not 1 <= len(request.requests) <= BATCH_MAX:
        return [FieldViolation("requests", f"from 1 to {BATCH_MAX}")]
    return []


def batch_item(index: int, item: keys_pb.VerifyRequest) -> list[FieldViolation]:
    """Check one item of BatchVerify; violations name `requests[index].field`."""
    return [
        FieldViolation(f"requests[{index}].{field}", description)
        for field, description in verify(item)
    ]


def get_project_id(request: keys_pb.GetProjectIdRequest) -> list[FieldViolation]:
    """Check GetProjectId."""
    check = Validator()
    if request.access_key:
        check.access_key("access_key", request.access_key)
    return check.violations


def lookup_key(request: keys_pb.LookupKeyRequest) -> list[FieldViolation]:
    """Check LookupKey; a text of any form is looked up."""
    return [] if request.secret_key else [FieldViolation("secret_key", "required")]


def import_keys(request: keys_pb.ImportKeysRequest) -> list[FieldViolation]:
    """Check the set of ImportKeys and the number of keys; `imported_key` checks each."""
    check = Validator()
    check.import_set("import_set", request.import_set)
    if not 1 <= len(request.keys) <= BATCH_MAX:
        check.refuse("keys", f"from 1 to {BATCH_MAX}")
    return check.violations


def imported_key(item: keys_pb.ImportedKey) -> list[FieldViolation]:
    """Check one key of ImportKeys, as CreateKey would; the service checks the digest."""
    fields = {field.name: value for field, value in item.ListFields()}
    digest, foreign_id = fields.pop("digest", ""), fields.pop("foreign_id", "")
    if convert.KIND_FROM_PROTO.get(item.kind) is KeyKind.OPERATOR:
        return [FieldViolation("kind", "operator keys cannot be imported")]
    check = Validator()
    check.violations += create_key(keys_pb.CreateKeyRequest(**fields))
    check.present("digest", digest)
    check.text("foreign_id", foreign_id)
    return check.violations


def get_caller(_: keys_pb.GetCallerRequest) -> list[FieldViolation]:
    """Check GetCaller, which has no fields."""
    return []


def watch_changes(request: keys_pb.WatchChangesRequest) -> list[FieldViolation]:
    """Check WatchChanges."""
    check = Validator()
    check.project_id_if_given(request.project_id)
    if request.from_revision < 0:
        check.refuse("from_revision", "must not be negative")
    check.length("log_id", request.log_id, ENTRY_MAX)
    return check.violations


def create_project(request: projects_pb.CreateProjectRequest) -> list[FieldViolation]:
    """Check CreateProject."""
    check = Validator()
    check.text("display_name", request.display_name)
    check.labels("labels", request.labels)
    check.rate_limit("rate_limit", request, request.rate_limit)
    check.request_id("request_id", request.request_id)
    return check.violations


def get_project(request: projects_pb.GetProjectRequest) -> list[FieldViolation]:
    """Check GetProject."""
    check = Validator()
    if check.present("project_id", request.project_id):
        check.project_id("project_id", request.project_id)
    return check.violations


def update_project(request: projects_pb.UpdateProjectRequest) -> list[FieldViolation]:
    """Check UpdateProject."""
    check = Validator()
    if check.present("project_id", request.project_id):
        check.project_id("project_id", request.project_id)
    named = check.mask(request.update_mask, _PROJECT_PATHS)
    if "display_name" in named:
        check.text("display_name", request.display_name)
    if "labels" in named:
        check.labels("labels", request.labels)
    if "rate_limit" in named:
        check.rate_limit("rate_limit", request, request.rate_limit)
    check.text("etag", request.etag)
    return check.violations


def list_projects(request: projects_pb.ListProjectsRequest) -> list[FieldViolation]:
    """Check ListProjects."""
    check = Validator()
    check.page(request.page_size, request.page_token)
    return check.violations


def list_events(request: audit_pb.ListEventsRequest) -> list[FieldViolation]:
    """Check ListEvents."""
    check = Validator()
    check.project_id_if_given(request.project_id)
    if request.access_key:
        check.access_key("access_key", request.access_key)
    check.text("actor", request.actor)
    check.time("start_time", request, request.start_time)
    check.time("end_time", request, request.end_time)
    check.page(request.page_size, request.page_token)
    return check.violations


def list_advisories(request: advisories_pb.ListAdvisoriesRequest) -> list[FieldViolation]:
    """Check ListAdvisories."""
    check = Validator()
    check.project_id_if_given(request.project_id)
    if len(request.types) > LIST_MAX:
        check.refuse("types", f"at most {LIST_MAX}")
    elif any(number not in convert.ADVISORY_TYPE_FROM_PROTO for number in request.types):
        check.refuse("types", "not a value of its enum")
    for field in ("dormant_after", "expires_within"):
        check.span(field, request, getattr(request, field), timedelta(0), WINDOW_MAX)
    check.page(request.page_size, request.page_token)
    return check.violations


CHECKS: Final[Mapping[type[Message], Callable[[Any], list[FieldViolation]]]] = {
    keys_pb.CreateKeyRequest: create_key,
    keys_pb.GetKeyRequest: get_key,
    keys_pb.ListKeysRequest: list_keys,
    keys_pb.UpdateKeyRequest: update_key,
    keys_pb.RotateKeyRequest: rotate_key,
    keys_pb.RevokeKeyRequest: revoke_key,
    keys_pb.VerifyRequest: verify,
    keys_pb.BatchVerifyRequest: batch_verify,
    keys_pb.GetProjectIdRequest: get_project_id,
    keys_pb.LookupKeyRequest: lookup_key,
    keys_pb.ImportKeysRequest: import_keys,
    keys_pb.GetCallerRequest: get_caller,
    keys_pb.WatchChangesRequest: watch_changes,
    projects_pb.CreateProjectRequest: create_project,
    projects_pb.GetProjectRequest: get_project,
    projects_pb.ListProjectsRequest: list_projects,
    usage_pb.GetUsageRequest: validate_usage.get_usage,
    usage_pb.ReportUsageRequest: validate_usage.report_usage,
    audit_pb.ListEventsRequest: list_events,
    advisories_pb.ListAdvisoriesRequest: list_advisories,
    projects_pb.UpdateProjectRequest: update_project,
}
"""The check of each request type; a server whose RPC lacks one does not start."""
