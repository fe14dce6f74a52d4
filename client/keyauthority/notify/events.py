"""Events: their types, identities and bodies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from google.protobuf.json_format import MessageToDict

from keyauthority.convert import change_to_proto
from keyauthority.model import Change


class Event(NamedTuple):
    """An event as it is sent."""

    id: str
    """The same at each attempt, so that a receiver recognises a repeat."""
    body: str
    """JSON in ASCII. A change has no secret, and neither has its event."""


def event_of_change(log_id: str, change: Change) -> Event:
    """Return the event of a change: its JSON as in the API, and the log of its revision."""
    data = MessageToDict(change_to_proto(change), always_print_fields_with_no_presence=True)
    return Event(
        f"{log_id}-{change.revision}",
        _body(change.type.value.replace("_", "."), data["time"], {"logId": log_id, **data}),
    )


def _body(event_type: str, time: str, data: Mapping[str, Any]) -> str:
    event = {"type": event_type, "timestamp": time, "data": data}
    return json.dumps(event, separators=(",", ":"))
