"""Signed page tokens, each valid for one caller and filter only."""

from __future__ import annotations

import base64
import binascii
import hmac
from typing import Final

from keyauthority.errors import bad_field
from keyauthority_server.keyring import Keyring

_MAC_BYTES: Final = 16  # 128 bits: guessing takes 2**127 calls
_CURSOR_BYTES: Final = 8  # a revision is a signed 64-bit number


class PageTokens:
    """Encodes and decodes page tokens, signed under keys derived from the pepper.

    Tokens are signed under the oldest pepper version, which every process has at each step of a
    rotation, and are valid until that version is dropped.
    """

    def __init__(self, peppers: Keyring) -> None:
        self._peppers = peppers

    def encode(self, actor: str, query: bytes, cursor: int | None) -> str:
        """Return the page token of a cursor; empty for None, after the last page."""
        if cursor is None:
            return ""
        content = cursor.to_bytes(_CURSOR_BYTES)
        mac = self._mac(actor, query, content, self._peppers.versions[0])
        return base64.urlsafe_b64encode(content + mac).decode("ascii")

    def decode(self, actor: str, query: bytes, token: str) -> int:
        """Return the cursor of a page token; 0 for an empty token.

        Raises InvalidArgument if the token was issued for another actor or query.
        """
        if not token:
            return 0
        try:
            raw = base64.b64decode(token, altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raw = b""
        if base64.urlsafe_b64encode(raw) != token.encode():  # not the canonical encoding
            raw = b""
        content, mac = raw[:_CURSOR_BYTES], raw[_CURSOR_BYTES:]
        if not any(
            hmac.compare_digest(mac, self._mac(actor, query, content, version))
            for version in self._peppers.versions
        ):
            raise bad_field("page_token", "was issued for another caller or filter")
        return int.from_bytes(content)

    def _mac(self, actor: str, query: bytes, content: bytes, version: int) -> bytes:
        key = self._peppers.derive("page token", version)
        message = b"\0".join((actor.encode(), content, query))
        return hmac.digest(key, message, "sha256")[:_MAC_BYTES]
