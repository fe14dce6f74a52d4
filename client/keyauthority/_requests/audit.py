"""Requests of AuditService."""

from __future__ import annotations

from dataclasses import replace

from keyauthority import convert
from keyauthority._requests.arguments import as_invalid_argument
from keyauthority.requests import EventQuery
from keyauthority.v1 import audit_service_pb2


@as_invalid_argument
def list_events(query: EventQuery, page_token: str) -> audit_service_pb2.ListEventsRequest:
    """Return the request of ListEvents."""
    return convert.event_query_to_proto(replace(query, page_token=page_token))
