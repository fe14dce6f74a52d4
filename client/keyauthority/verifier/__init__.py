"""Verification in the client's process, on records that a watch keeps up to date.

It gives the verdict that the server would give, never one of its own: anything it cannot evaluate
goes to the server. Begin with `evaluator`, the sans-IO core; `sync` and `aio` add the calls, the
watch and the usage reports, `key_cache` and `usage_buffer` hold its state.
"""

from __future__ import annotations

from keyauthority.verifier.aio import AsyncVerifier
from keyauthority.verifier.sync import Verifier

__all__ = ["AsyncVerifier", "Verifier"]
