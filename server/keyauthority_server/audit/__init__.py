"""The chain of evidence: how entries are sealed, shown and verified, and what is kept of refusals.

It writes to no log of changes: the store does that, with the seal that it is given here.
"""

from __future__ import annotations

from keyauthority_server.audit.chain import canonical_bytes, sealer
from keyauthority_server.audit.denials import DenialLog, refusing
from keyauthority_server.audit.events import event_of
from keyauthority_server.audit.saved_head import HeadError, SavedHead
from keyauthority_server.audit.verification import Finding, Verified, verify

__all__ = [
    "DenialLog",
    "Finding",
    "HeadError",
    "SavedHead",
    "Verified",
    "canonical_bytes",
    "event_of",
    "refusing",
    "sealer",
    "verify",
]
