"""Events: their types, identities and bodies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC
from typing import Any, NamedTuple

from google.protobuf.json_format import MessageToDict

from keyauthority.convert import advisory_to_proto, change_to_proto
from keyauthority.model import Change
from keyauthority.results import Advisory


class Event(NamedTuple):
    """An event as it is sent."""

    id: str
    """The same at each attempt, so that a receiver recognises a repeat."""
    body: str
    """JSON in ASCII. Neither changes nor advisories have a secret."""


def event_of_change(log_id: str, change: Change) -> Event:
    """Return the event of a change: its JSON as in the API, and the log of its revision."""
    data = MessageToDict(change_to_proto(change), always_print_fields_with_no_presence=True)
    return Event(
        f"{log_id}-{change.revision}",
        _body(change.type.value.replace("_", "."), data["time"], {"logId": log_id, **data}),
    )


def identity_of_advisory(advisory: Advisory) -> str:
    """Return type, access key and start, which stay the same until the advisory closes."""
    since = advisory.since_time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return f"{advisory.type.name}-{advisory.access_key}-{since}"


def event_of_advisory(log_id: str, advisory: Advisory) -> Event:
    """Return the event of an advisory that has opened: its JSON as in the API, and the log."""
    data = MessageToDict(advisory_to_proto(advisory), always_print_fields_with_no_presence=True)
    return Event(
        f"{log_id}-{identity_of_advisory(advisory)}",
        _body("advisory.opened", data["sinceTime"], {"logId": log_id, **data}),
    )


def _body(event_type: str, time: str, data: Mapping[str, Any]) -> str:
    event = {"type": event_type, "timestamp": time, "data": data}
    return json.dumps(event, separators=(",", ":"))
