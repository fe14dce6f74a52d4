"""Converts entries of the log to events, which name changed fields instead of whole records."""

from __future__ import annotations

from keyauthority.convert import field_changes
from keyauthority.model import ChangeType
from keyauthority.results import Event, FieldChange
from keyauthority_server.store.sql.row_codec import key_from, project_from
from keyauthority_server.store.types import Entry, SignedEntry


def event_of(signed: SignedEntry) -> Event:
    """Return the event. A rotation changes two keys, so it prefixes fields with the access key."""
    entry = signed.entry
    return Event(
        revision=entry.revision,
        time=entry.time,
        type=entry.type,
        actor=entry.actor,
        peer=entry.peer,
        project_id=entry.project_id,
        access_key=entry.access_key,
        changed=_changed(entry),
        hash=signed.mac.hash,
        previous_hash=entry.previous_hash,
    )


def _changed(entry: Entry) -> tuple[FieldChange, ...]:
    before = list(entry.before)
    changed: list[FieldChange] = []
    for after, old in zip(entry.keys, before, strict=False):
        prefix = f"{after['access_key']}." if entry.type is ChangeType.KEY_ROTATED else ""
        changed += field_changes(key_from(old) if old else None, key_from(after), prefix)
    if entry.project is not None:
        former = project_from(before[-1]) if before[-1] else None
        changed += field_changes(former, project_from(entry.project))
    return tuple(changed)
