"""Translation between the model and the proto, in both directions.

No other module translates; here is no grpc, no I/O and no validation beyond the model's types.
Each `…_to_proto` has its `…_from_proto`. Begin with `records`.
"""

from __future__ import annotations

from keyauthority.convert.advisories import (
    advisory_page_from_proto,
    advisory_page_to_proto,
    advisory_query_from_proto,
    advisory_query_to_proto,
    advisory_to_proto,
)
from keyauthority.convert.audit import (
    event_page_from_proto,
    event_page_to_proto,
    event_query_from_proto,
    event_query_to_proto,
    event_to_proto,
    field_changes,
)
from keyauthority.convert.enums import (
    ADVISORY_TYPE_FROM_PROTO,
    ADVISORY_TYPE_TO_PROTO,
    CHANGE_TYPE_TO_PROTO,
    IMPORT_SCHEME_FROM_PROTO,
    KIND_FROM_PROTO,
    KIND_TO_PROTO,
    MODE_FROM_PROTO,
    MODE_TO_PROTO,
    QUOTA_PERIOD_FROM_PROTO,
    QUOTA_PERIOD_TO_PROTO,
    REASON_TO_NAME,
    REVOKE_REASON_FROM_PROTO,
    REVOKE_REASON_TO_PROTO,
    STATE_FROM_PROTO,
    STATE_TO_PROTO,
    TOKEN_PART_FROM_PROTO,
    USAGE_GRANULARITY_FROM_PROTO,
    USAGE_GRANULARITY_TO_PROTO,
    VERDICT_FROM_PROTO,
    VERDICT_TO_PROTO,
)
from keyauthority.convert.imports import (
    import_set_from_proto,
    import_to_proto,
    imported_key_from_proto,
    imported_key_to_proto,
    imported_keys_from_proto,
    imported_keys_to_proto,
)
from keyauthority.convert.records import (
    change_from_proto,
    change_to_proto,
    key_from_proto,
    key_to_proto,
    project_from_proto,
    project_to_proto,
)
from keyauthority.convert.requests import (
    key_filter_from_proto,
    key_filter_to_proto,
    new_key_from_proto,
    new_key_to_proto,
    new_project_from_proto,
    new_project_to_proto,
    revocation_from_proto,
    revocation_to_proto,
)
from keyauthority.convert.results import (
    caller_identity_from_proto,
    caller_identity_to_proto,
    created_key_from_proto,
    created_key_to_proto,
    created_project_to_proto,
    key_lookup_from_proto,
    key_lookup_to_proto,
    key_page_from_proto,
    key_page_to_proto,
    project_page_from_proto,
    project_page_to_proto,
    revoked_key_from_proto,
    revoked_key_to_proto,
    rotated_key_from_proto,
    rotated_key_to_proto,
    written_key_from_proto,
    written_key_to_proto,
    written_project_from_proto,
    written_project_to_proto,
)
from keyauthority.convert.statuses import (
    DOMAIN,
    error_from_status,
    status_from_error,
)
from keyauthority.convert.times import (
    duration,
    timestamp,
    to_datetime,
    to_timedelta,
)
from keyauthority.convert.updates import (
    key_update_from_proto,
    key_update_to_proto,
    project_update_from_proto,
    project_update_to_proto,
    rotation_from_proto,
    rotation_to_proto,
)
from keyauthority.convert.usage import (
    usage_page_from_proto,
    usage_page_to_proto,
    usage_query_from_proto,
    usage_query_to_proto,
    usage_report_from_proto,
    usage_report_to_proto,
    usage_row_from_proto,
    usage_row_to_proto,
)
from keyauthority.convert.verification import (
    batch_item_from_proto,
    batch_to_proto,
    facts_from_proto,
    standings_to_proto,
    verdict_from_proto,
    verdict_to_proto,
    verdicts_from_proto,
    verdicts_to_proto,
    verify_query_from_proto,
    verify_query_to_proto,
)
from keyauthority.convert.watching import (
    watch_query_from_proto,
    watch_query_to_proto,
    watch_update_from_proto,
    watch_update_to_proto,
)
