"""Messages that arrive compressed because the TLS endpoint has cleared their flag."""

from __future__ import annotations

import zlib
from typing import Final

GZIP: Final = b"\x1f\x8b"  # no message begins so: protobuf has no wire type 7
_GZIP_WINDOW: Final = 31  # zlib's notation: the greatest window, with a gzip header


def inflated(body: bytes, most: int) -> bytes:
    """Return a gzip message, decompressed; if it is longer, its first `most` + 1 bytes.

    A damaged one is returned as it is: no message can be read from it.
    """
    try:
        return zlib.decompressobj(_GZIP_WINDOW).decompress(body, most + 1)
    except zlib.error:
        return body
