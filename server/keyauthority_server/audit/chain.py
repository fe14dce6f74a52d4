"""The audit chain: the definition of each entry's hash, and its key.

The hash of an entry is the HMAC-SHA-256, under a version of the audit key, of its canonical bytes:
JSON in ASCII, keys sorted, no white space, of one object with the members

    revision, time (microseconds since the Unix epoch), type, project_id, access_key, actor, peer,
    keys, project, before (as `Entry` describes them), salt and previous_hash (hexadecimal)

The salt, 16 random bytes per entry, prevents recognising a guessed entry by its hash. The first
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


def entry_signer(audit_key: Keyring) -> EntrySigner:
    """Return the signer of entries and of the newest time."""

    def sign(content: Entry | NewestTime, key_version: int | None = None) -> EntryMac:
        version = key_version or audit_key.current
        if isinstance(content, NewestTime):
            sealed = time_bytes(content)
        else:
            sealed = canonical_bytes(content)
        try:
            return EntryMac(audit_key.digest(sealed, version), version)
        except UnknownVersion as error:
            raise StoreDamaged(f"the key file lacks version {version} of the audit key") from error

    return sign


def time_bytes(time: NewestTime) -> bytes:
    """Return the input of the newest time's MAC; its prefix excludes entries, which are JSON."""
    return b"keyauthority time\0%d" % time.microseconds


def canonical_bytes(entry: Entry) -> bytes:
    """Return the input of an entry's hash."""
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
