"""Requests and messages of WatchChanges <-> proto."""

from __future__ import annotations

from keyauthority.convert.records import change_from_proto, change_to_proto
from keyauthority.convert.times import duration, timestamp, to_datetime, to_timedelta
from keyauthority.requests import WatchQuery
from keyauthority.results import WatchUpdate
from keyauthority.v1 import key_authority_service_pb2 as service_pb2


def watch_query_to_proto(query: WatchQuery) -> service_pb2.WatchChangesRequest:
    """Return the request as a proto."""
    return service_pb2.WatchChangesRequest(
        project_id=query.project_id,
        from_revision=query.from_revision,
        log_id=query.log_id,
        snapshot=query.snapshot,
    )


def watch_query_from_proto(proto: service_pb2.WatchChangesRequest) -> WatchQuery:
    """Return the request."""
    return WatchQuery(
        project_id=proto.project_id,
        from_revision=proto.from_revision if proto.HasField("from_revision") else None,
        log_id=proto.log_id,
        snapshot=proto.snapshot,
    )


def watch_update_to_proto(update: WatchUpdate) -> service_pb2.WatchChangesResponse:
    """Return the message as a proto."""
    return service_pb2.WatchChangesResponse(
        changes=map(change_to_proto, update.changes),
        revision=update.revision,
        log_id=update.log_id,
        checkpoint=update.checkpoint,
        resync=update.resync,
        server_time=timestamp(update.server_time),
        lag=duration(update.lag),
    )


def watch_update_from_proto(proto: service_pb2.WatchChangesResponse) -> WatchUpdate:
    """Return the message. Raises ValueError for an invalid change, time or lag."""
    return WatchUpdate(
        changes=tuple(map(change_from_proto, proto.changes)),
        revision=proto.revision,
        log_id=proto.log_id,
        checkpoint=proto.checkpoint,
        resync=proto.resync,
        server_time=to_datetime(proto.server_time),
        lag=to_timedelta(proto.lag),
    )
