"""A change as watchers get it: without what is not theirs to know, in the bytes of the proto."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import NamedTuple

from keyauthority.convert import change_to_proto
from keyauthority.decision import state_of
from keyauthority.model import Change, ChangeType, Key, Project, Revision
from keyauthority.v1 import key_authority_service_pb2 as pb


class Packed(NamedTuple):
    """A change, packed once for all who may see it."""

    revision: Revision
    project_id: str
    """Empty for a change of an operator key."""
    body: bytes
    """A WatchChangesResponse of just this change: such bytes, put together, are one of them all."""


def pack(change: Change) -> Packed:
    """Return the change without actor, address and note, its keys in the state that it left."""
    told = replace(change, keys=tuple(_disclosed(key, change.time) for key in change.keys))
    body = pb.WatchChangesResponse(changes=[change_to_proto(told)]).SerializeToString()
    return Packed(Revision(change.revision), change.project_id, body)


def pack_key(key: Key, now: datetime) -> Packed:
    """Return a key as if it had been created as it is now."""
    told = Change(
        revision=key.revision,
        time=key.update_time,
        type=ChangeType.KEY_CREATED,
        project_id=key.project_id,
        keys=(_disclosed(key, now),),
    )
    body = pb.WatchChangesResponse(changes=[change_to_proto(told)]).SerializeToString()
    return Packed(Revision(key.revision), key.project_id, body)


def pack_project(project: Project) -> Packed:
    """Return a project as if it had been created as it is now."""
    return pack(
        Change(
            revision=project.revision,
            time=project.update_time,
            type=ChangeType.PROJECT_CREATED,
            project_id=project.project_id,
            project=project,
        )
    )


def _disclosed(key: Key, time: datetime) -> Key:
    """Return the key as a change tells of it; use, which makes no change, is left out as well."""
    return replace(
        key,
        state=state_of(key, time),
        created_by="",
        created_from="",
        revoke_note="",
        last_used_time=None,
    )
