"""The digest of a key, which is all that is stored of its token.

That of a native token is its HMAC under the pepper. A native token names its key, so its digest
is of no use in the row of another key. An imported token names none: its digest is the HMAC of
the hash that the other system stored, by which the key is found, followed by the HMAC of that
and the access key, which ties it to the key.
"""

from __future__ import annotations

from typing import Final

from keyauthority_server.keyring import Keyring

IMPORTED: Final = b"import "
"""The beginning of the message of an imported token; no native token begins so."""
_TIE: Final = b"imported key "


def token_digest(
    peppers: Keyring, message: bytes, access_key: str, version: int | None = None
) -> bytes:
    """Return the digest of a key whose token has this message; see `Keyring.digest`."""
    digest = peppers.digest(message, version)
    if message.startswith(IMPORTED):
        return imported_digest(peppers, digest, access_key, version)
    return digest


def imported_digest(
    peppers: Keyring, found_by: bytes, access_key: str, version: int | None = None
) -> bytes:
    """Return the digest of an imported key from the HMAC of its token's message."""
    tie = peppers.digest(_TIE + access_key.encode() + b"\0" + found_by, version)
    return found_by + tie
