"""Request of WatchChanges."""

from __future__ import annotations

from keyauthority import convert
from keyauthority._requests.arguments import as_invalid_argument
from keyauthority.requests import WatchQuery
from keyauthority.v1 import key_authority_service_pb2


@as_invalid_argument
def watch_changes(
    project_id: str, *, from_revision: int | None, log_id: str, snapshot: bool
) -> key_authority_service_pb2.WatchChangesRequest:
    """Return the request of WatchChanges."""
    return convert.watch_query_to_proto(
        WatchQuery(
            project_id=project_id, from_revision=from_revision, log_id=log_id, snapshot=snapshot
        )
    )
