"""The names that other programs are written against: the contract's tables, as they stand there.

`A | B` is a oneof: either of the two. Fields are in the contract's order.
"""

from __future__ import annotations

from typing import Final

PACKAGE: Final = "keyauthority.v1"

SERVICES: Final = {
    "KeyAuthorityService": (
        "CreateKey", "GetKey", "ListKeys", "UpdateKey", "RotateKey", "RevokeKey", "Verify",
        "BatchVerify", "GetProjectId", "LookupKey", "ImportKeys", "GetCaller",
        "WatchChanges",
    ),
    "ProjectService": ("CreateProject", "GetProject", "ListProjects", "UpdateProject"),
    "UsageService": ("GetUsage", "ReportUsage"),
    "AuditService": ("ListEvents",),
    "AdvisoryService": ("ListAdvisories",),
}  # fmt: skip

STREAMING: Final = frozenset({"WatchChanges"})

MESSAGES: Final = {
    # Requests and responses (sections 3 to 5).
    "CreateKeyRequest": "project_id mode kind purpose permissions[] restrictions expire_time|ttl"
    " rate_limit quota labels operator_projects[] request_id",
    "CreateKeyResponse": "key secret_key revision log_id",
    "GetKeyRequest": "access_key",
    "GetKeyResponse": "key",
    "ListKeysRequest": "project_id filter page_size page_token",
    "ListKeysResponse": "keys[] next_page_token",
    "UpdateKeyRequest": "access_key purpose permissions[] restrictions expire_time rate_limit quota"
    " labels disabled update_mask etag",
    "UpdateKeyResponse": "key revision log_id",
    "RotateKeyRequest": "access_key overlap expire_time request_id",
    "RotateKeyResponse": "key secret_key previous revision log_id",
    "RevokeKeyRequest": "access_key secret_key reason note",
    "RevokeKeyResponse": "key revision log_id",
    "VerifyRequest": "secret_key access_key project_id mode permissions[] client_ip referrer app"
    " api_target cost at_least_revision log_id explain include_record",
    "VerifyResponse": "valid verdict access_key project_id mode kind permissions[] labels"
    " expire_time key_standing project_standing quota_standing revision log_id failed[] key"
    " project",
    "BatchVerifyRequest": "requests[]",
    "BatchVerifyResponse": "responses[]",
    "GetProjectIdRequest": "access_key secret_key",
    "GetProjectIdResponse": "project_id",
    "LookupKeyRequest": "secret_key",
    "LookupKeyResponse": "key project",
    "ImportKeysRequest": "import_set keys[] validate_only",
    "ImportKeysResponse": "results[] revision log_id",
    "ImportSet": "name scheme token_part token_prefix token_length_min token_length_max",
    "ImportedKey": "digest foreign_id project_id mode kind purpose permissions[] restrictions"
    " expire_time rate_limit quota labels",
    "ImportResult": "access_key created error",
    "ImportError": "reason message",
    "GetCallerRequest": "",
    "GetCallerResponse": "access_key certificate_name permissions[] operator_projects[]"
    " allowed_ips[] expire_time",
    "WatchChangesRequest": "project_id from_revision log_id snapshot",
    "WatchChangesResponse": "changes[] revision log_id checkpoint resync server_time lag",
    "CreateProjectRequest": "display_name labels rate_limit request_id",
    "CreateProjectResponse": "project revision log_id",
    "GetProjectRequest": "project_id",
    "GetProjectResponse": "project",
    "ListProjectsRequest": "page_size page_token",
    "ListProjectsResponse": "projects[] next_page_token",
    "UpdateProjectRequest": "project_id display_name labels suspended rate_limit update_mask etag",
    "UpdateProjectResponse": "project revision log_id",
    "GetUsageRequest": "project_id access_key start_time end_time granularity page_size page_token",
    "GetUsageResponse": "rows[] next_page_token",
    "ReportUsageRequest": "batch_id rows[] observations[]",
    "ReportUsageResponse": "",
    "ListEventsRequest": "project_id access_key actor start_time end_time page_size page_token",
    "ListEventsResponse": "events[] next_page_token",
    "ListAdvisoriesRequest": "project_id types[] dormant_after expires_within page_size page_token",
    "ListAdvisoriesResponse": "advisories[] next_page_token",
    # Records and values (section 3; section 16 of part 2).
    "Key": "access_key project_id mode kind purpose permissions[] restrictions rate_limit quota"
    " labels state disabled create_time update_time expire_time supersede_time revoke_time"
    " revoke_reason revoke_note last_used_time created_by created_from predecessor_access_key"
    " successor_access_key publishable_key operator_projects[] etag revision"
    " import_set foreign_id",
    "Project": "project_id display_name labels suspended rate_limit create_time update_time etag"
    " revision",
    "Restrictions": "allowed_ips[] allowed_referrers[] android_apps[] ios_bundle_ids[]"
    " api_targets[]",
    "AndroidApp": "package sha1",
    "ApiTargetRestriction": "service methods[]",
    "RateLimit": "limit period",
    "Quota": "limit period",
    "Standing": "limit remaining reset_time",
    "App": "android_package android_sha1 ios_bundle_id",
    "ApiTarget": "service method",
    "KeyFilter": "mode kind state labels expires_before used_before never_used import_set",
    "UsageRow": "project_id access_key verdict bucket_time count cost last_used_time",
    "KeyObservation": "access_key permissions[] last_peer",
    "Change": "revision time type project_id keys[] project",
    "Event": "revision time type actor peer project_id access_key changed[] hash previous_hash",
    "FieldChange": "field before after",
    "Advisory": "type access_key project_id since_time last_time count last_peer permissions[]"
    " remedy",
}

ENUMS: Final = {
    "KeyMode": "TEST LIVE",
    "KeyKind": "SECRET RESTRICTED PUBLISHABLE OPERATOR",
    "KeyState": "ACTIVE DISABLED EXPIRED SUPERSEDED REVOKED",
    "QuotaPeriod": "DAY MONTH TOTAL",
    "UsageGranularity": "HOUR DAY",
    "RevokeReason": "KEY_COMPROMISE LEAKED NO_LONGER_USED PRIVILEGE_WITHDRAWN OWNER_LEFT OTHER",
    "ImportScheme": "SHA256_HEX SHA256_BASE64 SHA256_BASE64URL SHA512_HEX",
    "TokenPart": "WHOLE AFTER_LAST_UNDERSCORE",
    "AdvisoryType": "DORMANT NEVER_USED EXPIRING OVERLAP_ENDING_IN_USE USED_AFTER_END CANARY_USED"
    " UNRESTRICTED OLD UNUSED_PERMISSIONS",
    "ChangeType": "KEY_CREATED KEY_UPDATED KEY_ROTATED KEY_REVOKED PROJECT_CREATED PROJECT_UPDATED",
}

# The contract names no order for VALID; the denials are in the order in which they are checked.
DENIALS: Final = (
    "MALFORMED UNKNOWN WRONG_ACCESS_KEY REVOKED SUPERSEDED EXPIRED DISABLED PROJECT_SUSPENDED"
    " WRONG_PROJECT WRONG_MODE IP_NOT_ALLOWED REFERRER_NOT_ALLOWED APP_NOT_ALLOWED"
    " TARGET_NOT_ALLOWED MISSING_PERMISSION RATE_LIMITED QUOTA_EXCEEDED"
)

# Every time and span of the contract, by its field's name.
TIMESTAMPS: Final = (
    "create_time update_time expire_time supersede_time revoke_time last_used_time expires_before"
    " used_before since_time last_time reset_time bucket_time start_time end_time time server_time"
)
DURATIONS: Final = "ttl overlap lag dormant_after expires_within"
