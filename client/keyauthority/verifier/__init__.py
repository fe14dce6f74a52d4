"""Verification in the client's own process, with the server's verdict, kept fresh by a watch."""

from __future__ import annotations

from keyauthority.verifier.aio import AsyncVerifier
from keyauthority.verifier.sync import Verifier

__all__ = ["AsyncVerifier", "Verifier"]
