"""Advisories <-> proto: queries, pages and their items."""

from __future__ import annotations

from keyauthority.convert.enums import ADVISORY_TYPE_FROM_PROTO, ADVISORY_TYPE_TO_PROTO
from keyauthority.convert.requests import optional, read_if_given
from keyauthority.convert.times import duration, timestamp, to_datetime, to_timedelta
from keyauthority.errors import bad_field
from keyauthority.model import AdvisoryType
from keyauthority.requests import AdvisoryQuery
from keyauthority.results import Advisory, Page
from keyauthority.v1 import advisory_service_pb2 as pb


def advisory_query_to_proto(query: AdvisoryQuery) -> pb.ListAdvisoriesRequest:
    """Return the request as a proto."""
    return pb.ListAdvisoriesRequest(
        project_id=query.project_id,
        types=[ADVISORY_TYPE_TO_PROTO[type_] for type_ in query.types],
        dormant_after=duration(query.dormant_after),
        expires_within=duration(query.expires_within),
        page_size=query.page_size,
        page_token=query.page_token,
    )


def advisory_query_from_proto(proto: pb.ListAdvisoriesRequest) -> AdvisoryQuery:
    """Return the request. Raises InvalidArgument, naming the field, for an unsupported value."""
    return AdvisoryQuery(
        project_id=proto.project_id,
        types=tuple(_type(index, number) for index, number in enumerate(proto.types)),
        dormant_after=read_if_given(to_timedelta, proto, "dormant_after"),
        expires_within=read_if_given(to_timedelta, proto, "expires_within"),
        page_size=proto.page_size,
        page_token=proto.page_token,
    )


def _type(index: int, number: pb.AdvisoryType.ValueType) -> AdvisoryType:
    advisory_type = optional(ADVISORY_TYPE_FROM_PROTO, number, f"types[{index}]")
    if advisory_type is None:
        raise bad_field(f"types[{index}]", "is not a value of its enum")
    return advisory_type


def advisory_to_proto(advisory: Advisory) -> pb.Advisory:
    """Return the advisory as a proto."""
    return pb.Advisory(
        type=ADVISORY_TYPE_TO_PROTO[advisory.type],
        access_key=advisory.access_key,
        project_id=advisory.project_id,
        since_time=timestamp(advisory.since_time),
        last_time=timestamp(advisory.last_time),
        count=advisory.count,
        last_peer=advisory.last_peer,
        permissions=advisory.permissions,
        remedy=advisory.remedy,
    )


def advisory_from_proto(proto: pb.Advisory) -> Advisory:
    """Return the advisory. Raises ValueError for an unknown type or an invalid time."""
    advisory_type = ADVISORY_TYPE_FROM_PROTO.get(proto.type)
    if advisory_type is None:
        raise ValueError(f"type: {proto.type} is not a value that this version knows")
    return Advisory(
        type=advisory_type,
        access_key=proto.access_key,
        project_id=proto.project_id,
        since_time=to_datetime(proto.since_time),
        last_time=to_datetime(proto.last_time) if proto.HasField("last_time") else None,
        count=proto.count,
        last_peer=proto.last_peer,
        permissions=tuple(proto.permissions),
        remedy=proto.remedy,
    )


def advisory_page_to_proto(page: Page[Advisory]) -> pb.ListAdvisoriesResponse:
    """Return the response of ListAdvisories as a proto."""
    return pb.ListAdvisoriesResponse(
        advisories=map(advisory_to_proto, page.items), next_page_token=page.next_page_token
    )


def advisory_page_from_proto(proto: pb.ListAdvisoriesResponse) -> Page[Advisory]:
    """Return the response of ListAdvisories. Raises ValueError for an invalid advisory."""
    return Page(tuple(map(advisory_from_proto, proto.advisories)), proto.next_page_token)
