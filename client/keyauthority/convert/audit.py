"""Audit events <-> proto, and the field changes between two records, as proto JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final, TypeVar

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from keyauthority.convert.enums import CHANGE_TYPE_FROM_PROTO, CHANGE_TYPE_TO_PROTO
from keyauthority.convert.records import key_to_proto, project_to_proto
from keyauthority.convert.requests import read_if_given
from keyauthority.convert.times import timestamp, to_datetime
from keyauthority.model import Key, Project
from keyauthority.requests import EventQuery
from keyauthority.results import Event, FieldChange, Page
from keyauthority.v1 import audit_service_pb2

R = TypeVar("R", Key, Project)

# Fields that every change sets and the event carries elsewhere, and fields that no change sets.
_LEFT_OUT: Final = frozenset({"revision", "etag", "update_time", "state", "last_used_time"})


def field_changes(before: R | None, after: R, prefix: str = "") -> tuple[FieldChange, ...]:
    """Return the fields that differ, in the order of the proto; `before` is None for a new record.

    Values are proto JSON with proto field names. Revision, etag and update_time, which differ after
    every change, are omitted.
    """
    return tuple(
        _field_changes({} if before is None else _json_of(before), _json_of(after), prefix)
    )


def _field_changes(
    before: dict[str, Any], after: dict[str, Any], prefix: str
) -> Iterator[FieldChange]:
    for name in dict.fromkeys((*after, *before)):
        if before.get(name) != after.get(name):
            yield FieldChange(prefix + name, _text(before.get(name)), _text(after.get(name)))


def _json_of(record: Key | Project) -> dict[str, Any]:
    proto: Message = key_to_proto(record) if isinstance(record, Key) else project_to_proto(record)
    values = MessageToDict(proto, preserving_proto_field_name=True)
    return {
        field.name: values[field.name]
        for field in proto.DESCRIPTOR.fields
        if field.name in values and field.name not in _LEFT_OUT
    }


def _text(value: object) -> str:
    return "" if value is None else json.dumps(value, ensure_ascii=False, sort_keys=True)


def event_to_proto(event: Event) -> audit_service_pb2.Event:
    """Return the event as a proto."""
    return audit_service_pb2.Event(
        revision=event.revision,
        time=timestamp(event.time),
        type=CHANGE_TYPE_TO_PROTO[event.type],
        actor=event.actor,
        peer=event.peer,
        project_id=event.project_id,
        access_key=event.access_key,
        changed=[
            audit_service_pb2.FieldChange(
                field=change.field, before=change.before, after=change.after
            )
            for change in event.changed
        ],
        hash=event.hash,
        previous_hash=event.previous_hash,
    )


def event_from_proto(proto: audit_service_pb2.Event) -> Event:
    """Return the event. Raises ValueError for an unknown type or an invalid time."""
    change_type = CHANGE_TYPE_FROM_PROTO.get(proto.type)
    if change_type is None:
        raise ValueError(f"type: {proto.type} is not a value that this version knows")
    return Event(
        revision=proto.revision,
        time=to_datetime(proto.time),
        type=change_type,
        actor=proto.actor,
        peer=proto.peer,
        project_id=proto.project_id,
        access_key=proto.access_key,
        changed=tuple(
            FieldChange(change.field, change.before, change.after) for change in proto.changed
        ),
        hash=proto.hash,
        previous_hash=proto.previous_hash,
    )


def event_page_to_proto(page: Page[Event]) -> audit_service_pb2.ListEventsResponse:
    """Return the response of ListEvents as a proto."""
    return audit_service_pb2.ListEventsResponse(
        events=map(event_to_proto, page.items), next_page_token=page.next_page_token
    )


def event_page_from_proto(proto: audit_service_pb2.ListEventsResponse) -> Page[Event]:
    """Return the response of ListEvents. Raises ValueError for an invalid event."""
    return Page(tuple(map(event_from_proto, proto.events)), proto.next_page_token)


def event_query_to_proto(query: EventQuery) -> audit_service_pb2.ListEventsRequest:
    """Return the request as a proto."""
    return audit_service_pb2.ListEventsRequest(
        project_id=query.project_id,
        access_key=query.access_key,
        actor=query.actor,
        start_time=timestamp(query.start_time),
        end_time=timestamp(query.end_time),
        page_size=query.page_size,
        page_token=query.page_token,
    )


def event_query_from_proto(proto: audit_service_pb2.ListEventsRequest) -> EventQuery:
    """Return the request. Raises InvalidArgument, naming the field, for an unsupported value."""
    return EventQuery(
        project_id=proto.project_id,
        access_key=proto.access_key,
        actor=proto.actor,
        start_time=read_if_given(to_datetime, proto, "start_time"),
        end_time=read_if_given(to_datetime, proto, "end_time"),
        page_size=proto.page_size,
        page_token=proto.page_token,
    )
