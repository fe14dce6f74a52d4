"""Verification in the client's own process, with the server's verdict, kept fresh by a watch."""

from __future__ import annotations

from keyauthority.verifier.tasks import AsyncVerifier
from keyauthority.verifier.threads import Verifier

__all__ = ["AsyncVerifier", "Verifier"]
