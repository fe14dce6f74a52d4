"""Requests of AdvisoryService."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta

from keyauthority import convert
from keyauthority._requests.arguments import as_invalid_argument, parse_enum, texts
from keyauthority.model import AdvisoryType
from keyauthority.requests import AdvisoryQuery
from keyauthority.v1 import advisory_service_pb2


def advisory_query(
    project_id: str,
    *,
    types: Iterable[AdvisoryType | str],
    dormant_after: timedelta | None,
    expires_within: timedelta | None,
    page_size: int,
) -> AdvisoryQuery:
    """Return the query of ListAdvisories. Raises InvalidArgument for an unknown type."""
    parsed = (parse_enum(AdvisoryType, type_, "types") for type_ in texts(types, "types"))
    return AdvisoryQuery(
        project_id=project_id,
        types=tuple(type_ for type_ in parsed if type_),
        dormant_after=dormant_after,
        expires_within=expires_within,
        page_size=page_size,
    )


@as_invalid_argument
def list_advisories(
    query: AdvisoryQuery, page_token: str
) -> advisory_service_pb2.ListAdvisoriesRequest:
    """Return the request of ListAdvisories."""
    return convert.advisory_query_to_proto(replace(query, page_token=page_token))
