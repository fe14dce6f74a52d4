"""The chain: what the hash of each entry of the log is taken over, and under which key.

The hash of an entry is HMAC-SHA-256, under a version of the audit key, of its canonical bytes:
JSON in ASCII, keys sorted, no white space, of one object with the members

    revision, time (microseconds since the Unix epoch), type, project_id, access_key, actor, peer,
    keys, project, before (as `Entry` describes them), salt and previous_hash (hexadecimal)

The salt, 16 random bytes an entry, keeps a known entry from being recognised by its hash. The first
entry's previous_hash is empty.
"""

from __future__ import annotations

import json
from typing import Final

from keyauthority_server.keyring import Keyring, UnknownVersion
from keyauthority_server.store.interface import StoreDamaged
from keyauthority_server.store.sql.row_codec import microseconds
from keyauthority_server.store.types import Entry, EntryMac, EntrySigner, NewestTime

_canonical: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


def sealer(audit_key: Keyring) -> EntrySigner:
    """Return what gives each new entry its hash."""

    def seal(content: Entry | NewestTime, key_version: int | None = None) -> EntryMac:
        version = key_version or audit_key.current
        if isinstance(content, NewestTime):
            sealed = time_bytes(content)
        else:
            sealed = canonical_bytes(content)
        try:
            return EntryMac(audit_key.digest(sealed, version), version)
        except UnknownVersion as error:
            raise StoreDamaged(f"version {version} of the audit key is not known") from error

    return seal


def time_bytes(time: NewestTime) -> bytes:
    """Return the bytes that the seal of the newest time is taken over; an entry's are JSON."""
    return b"keyauthority time\0%d" % time.microseconds


def canonical_bytes(entry: Entry) -> bytes:
    """Return the bytes that the hash of an entry is taken over."""
    content = {
        "revision": entry.revision,
        "time": microseconds(entry.time),
        "type": entry.type.value,
        "project_id": entry.project_id,
        "access_key": entry.access_key,
        "actor": entry.actor,
        "peer": entry.peer,
        "keys": list(entry.keys),
        "project": entry.project,
        "before": list(entry.before),
        "salt": entry.salt.hex(),
        "previous_hash": entry.previous_hash.hex(),
    }
    return _canonical(content).encode("ascii")
