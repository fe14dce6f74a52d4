"""The audit chain: signing, presenting and verifying log entries; the log of denied mutations.

It never writes to the change log: the store does, with the signer made here. Begin with `chain`,
the definition of an entry's hash, then `verification`.
"""

from __future__ import annotations

from keyauthority_server.audit.chain import canonical_bytes, entry_signer
from keyauthority_server.audit.denials import DenialLog, refusing
from keyauthority_server.audit.events import event_of
from keyauthority_server.audit.saved_head import HeadError, load_head, save_head
from keyauthority_server.audit.verification import Finding, Verified, verify

__all__ = [
    "DenialLog",
    "Finding",
    "HeadError",
    "Verified",
    "canonical_bytes",
    "entry_signer",
    "event_of",
    "load_head",
    "refusing",
    "save_head",
    "verify",
]
