"""Encodes changes for watchers as protobuf bytes, without fields that watchers must not see."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import NamedTuple

from keyauthority.convert import change_to_proto
from keyauthority.decision import state_of
from keyauthority.model import Change, ChangeType, Key, Project, Revision
from keyauthority.v1 import key_authority_service_pb2 as pb


class EncodedChange(NamedTuple):
    """A change, encoded once for all watchers."""

    revision: Revision
    project_id: str
    """Empty for a change of an operator key."""
    body: bytes
    """A WatchChangesResponse with this change only; concatenated bodies parse as one message."""


def encode_change(change: Change) -> EncodedChange:
    """Return the change without actor, address and note, with key states as of the change."""
    keys = tuple(_redacted(key, change.time) for key in change.keys)
    return _encoded(replace(change, keys=keys))


def encode_key(key: Key, now: datetime) -> EncodedChange:
    """Return a change that creates the key in its present state, for snapshots."""
    return _encoded(
        Change(
            revision=key.revision,
            time=key.update_time,
            type=ChangeType.KEY_CREATED,
            project_id=key.project_id,
            keys=(_redacted(key, now),),
        )
    )


def encode_project(project: Project) -> EncodedChange:
    """Return a change that creates the project in its present state, for snapshots."""
    return _encoded(
        Change(
            revision=project.revision,
            time=project.update_time,
            type=ChangeType.PROJECT_CREATED,
            project_id=project.project_id,
            project=project,
        )
    )


def _encoded(change: Change) -> EncodedChange:
    body = pb.WatchChangesResponse(changes=[change_to_proto(change)]).SerializeToString()
    return EncodedChange(Revision(change.revision), change.project_id, body)


def _redacted(key: Key, time: datetime) -> Key:
    """Return the key with the fields of a Change; last_used_time moves without a change."""
    return replace(
        key,
        state=state_of(key, time),
        created_by="",
        created_from="",
        revoke_note="",
        last_used_time=None,
    )
