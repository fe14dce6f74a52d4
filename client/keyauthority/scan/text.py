"""Tokens in a stream of bytes."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import BinaryIO, Final, NamedTuple

from keyauthority.model import KeyKind, KeyMode
from keyauthority.token import TOKEN_LENGTH_MAX, SecretKey, find_tokens

CHUNK: Final = 1 << 22  # bytes read at once
_OVERLAP: Final = 2 * TOKEN_LENGTH_MAX  # bytes of a chunk that are searched again with the next
_BINARY_WITHIN: Final = 8_000  # bytes: git looks for a NUL in as many
MARK: Final = b"_KA"  # in every token, and rare in other text
_UTF16: Final = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}


class ScanError(Exception):
    """A source cannot be read; the message is one line."""


class Finding(NamedTuple):
    """A token and its place. `str` and `repr` of the token are redacted."""

    file: str
    line: int
    token: SecretKey
    kind: KeyKind
    mode: KeyMode
    access_key: str
    commit: str = ""
    """The commit that added the line; empty outside a history."""


def scan_stream(stream: BinaryIO, name: str) -> Iterator[Finding]:
    """Yield the tokens in a stream, in order; nothing for binary content.

    Content is binary if a NUL is among its first bytes, as git decides; UTF-16 is decoded.
    """
    chunk = stream.read(CHUNK)
    encoding = _UTF16.get(chunk[:2])
    if encoding is None and b"\0" in chunk[:_BINARY_WITHIN]:
        return
    decode = codecs.getincrementaldecoder(encoding)("replace").decode if encoding else None
    rest, line = b"", 1
    while chunk:
        data = rest + (decode(chunk).encode("ascii", "replace") if decode else chunk)
        chunk = stream.read(CHUNK)
        limit = max(len(data) - _OVERLAP, 0) if chunk else len(data)
        counted = 0
        for start, finding in find_in(data, name, limit=limit):
            line += data.count(b"\n", counted, start)
            counted = start
            yield finding._replace(line=line)
        if chunk:
            line += data.count(b"\n", counted, limit)
        rest = data[limit:]


def find_in(
    data: bytes, file: str, line: int = 0, commit: str = "", *, limit: int | None = None
) -> Iterator[tuple[int, Finding]]:
    """Yield the tokens in the bytes that begin before `limit`, each after its place."""
    end = 0
    while (at := data.find(MARK, end)) >= 0:
        first = max(end, at - TOKEN_LENGTH_MAX)
        end = at + 1
        window = data[first : at + TOKEN_LENGTH_MAX].decode("latin-1")
        for start, stop, token in find_tokens(window):
            if start <= at - first < stop:
                end = first + stop
                if limit is None or first + start < limit:
                    text = SecretKey(window[start:stop])
                    names = (token.kind, token.mode, token.access_key)
                    yield first + start, Finding(file, line, text, *names, commit)
