"""Page tokens that serve their own caller and filter only, and cannot be made up."""

from __future__ import annotations

import base64
import binascii
import hmac
from typing import Final

from keyauthority.errors import bad_field
from keyauthority_server.keyring import Keyring

_MAC_BYTES: Final = 16  # 128 bits: guessing takes 2**127 calls
_PLACE_BYTES: Final = 8  # a revision is a signed 64-bit number


class PageTokens:
    """Makes and reads page tokens, under keys derived from the pepper.

    They are made under its oldest version, which every process has at every moment of a rotation,
    and hold until that is dropped.
    """

    def __init__(self, peppers: Keyring) -> None:
        self._peppers = peppers

    def token(self, actor: str, query: bytes, place: int | None) -> str:
        """Return the token that goes on from a place; empty if there is none."""
        if place is None:
            return ""
        content = place.to_bytes(_PLACE_BYTES)
        mac = self._mac(actor, query, content, self._peppers.versions[0])
        return base64.urlsafe_b64encode(content + mac).decode("ascii")

    def place(self, actor: str, query: bytes, token: str) -> int:
        """Return the place that a token goes on from, 0 for no token.

        Raises InvalidArgument if it is not of this actor and query.
        """
        if not token:
            return 0
        try:
            raw = base64.b64decode(token, altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raw = b""
        if base64.urlsafe_b64encode(raw) != token.encode():  # another spelling of the same bytes
            raw = b""
        content, mac = raw[:_PLACE_BYTES], raw[_PLACE_BYTES:]
        if not any(
            hmac.compare_digest(mac, self._mac(actor, query, content, version))
            for version in self._peppers.versions
        ):
            raise bad_field("page_token", "it is not of this caller and filter")
        return int.from_bytes(content)

    def _mac(self, actor: str, query: bytes, content: bytes, version: int) -> bytes:
        key = self._peppers.derive("page token", version)
        message = b"\0".join((actor.encode(), content, query))
        return hmac.digest(key, message, "sha256")[:_MAC_BYTES]
