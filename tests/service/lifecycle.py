"""Lifecycle calls that bring keys into each state: update, rotate, expire."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from keyauthority.v1 import key_authority_service_pb2 as pb
from keyauthority.v1 import key_pb2, project_service_pb2
from tests.service.callers import Caller, new_key, revoke
from tests.service.processes import wait_until

INSTANT: Final = Duration(nanos=1_000_000)  # so short a life is over when it is looked at
HOUR: Final = timedelta(hours=1)


def seconds(number: float) -> Duration:
    """A span."""
    span = Duration()
    span.FromTimedelta(timedelta(seconds=number))
    return span


def timestamp(time: datetime) -> Timestamp:
    """A moment as a proto."""
    proto = Timestamp()
    proto.FromDatetime(time)
    return proto


def from_now(span: timedelta) -> Timestamp:
    """The moment that lies so far ahead, or behind."""
    return timestamp(datetime.now(UTC) + span)


def passed(moment: Timestamp) -> None:
    """Wait until a moment has passed."""
    end = moment.ToDatetime(UTC)
    wait_until(lambda: datetime.now(UTC) > end)


def update_request(
    access_key: str, paths: Sequence[str] | None = None, etag: str = "", **fields: Any
) -> pb.UpdateKeyRequest:
    """An UpdateKeyRequest whose mask names the given fields, or `paths`."""
    mask = FieldMask(paths=list(fields) if paths is None else paths)
    return pb.UpdateKeyRequest(access_key=access_key, update_mask=mask, etag=etag, **fields)


def update(caller: Caller, access_key: str, etag: str = "", **fields: Any) -> Any:
    """Change the fields given, None to clear one; return the UpdateKeyResponse."""
    return caller.ask(update_request(access_key, None, etag, **fields))


def update_project(caller: Caller, project_id: str, etag: str = "", **fields: Any) -> Any:
    """Change the fields given, None to clear one; return the UpdateProjectResponse."""
    mask = FieldMask(paths=list(fields))
    return caller.ask(
        project_service_pb2.UpdateProjectRequest(
            project_id=project_id, update_mask=mask, etag=etag, **fields
        )
    )


def rotate(caller: Caller, access_key: str, overlap: float | None = None, **fields: Any) -> Any:
    """Rotate a key, with an overlap in seconds; return the RotateKeyResponse."""
    span = None if overlap is None else seconds(overlap)
    return caller.ask(pb.RotateKeyRequest(access_key=access_key, overlap=span, **fields))


def _active(root: Caller, project_id: str) -> Any:
    return new_key(root, project_id)


def _disabled(root: Caller, project_id: str) -> Any:
    made = new_key(root, project_id)
    update(root, made.key.access_key, disabled=True)
    return made


def _expired(root: Caller, project_id: str) -> Any:
    made = new_key(root, project_id, ttl=INSTANT)
    passed(made.key.expire_time)
    return made


def _superseded(root: Caller, project_id: str) -> Any:
    made = new_key(root, project_id)
    rotate(root, made.key.access_key, 0)
    return made


def _revoked(root: Caller, project_id: str) -> Any:
    made = new_key(root, project_id)
    revoke(root, access_key=made.key.access_key)
    return made


IN_STATE: Final[dict[str, Callable[[Caller, str], Any]]] = {
    "ACTIVE": _active,
    "DISABLED": _disabled,
    "EXPIRED": _expired,
    "SUPERSEDED": _superseded,
    "REVOKED": _revoked,
}
"""For each state, a function that makes a key in it and returns the CreateKeyResponse."""


def state(key: key_pb2.Key) -> str:
    """The name of the state that a record shows, without its prefix."""
    return key_pb2.KeyState.Name(key.state).removeprefix("KEY_STATE_")
