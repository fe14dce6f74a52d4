"""Tokens in bytes: chunks, encodings, lines, and text directly before them."""

from __future__ import annotations

import io
import random

import pytest

from keyauthority.model import KeyKind, KeyMode
from keyauthority.scan import Finding, scan_stream
from keyauthority.scan.text import CHUNK
from keyauthority.token import make, new_access_key, new_secret
from tests.scan.samples import near_misses, new_token


def found(data: bytes) -> list[tuple[int, str]]:
    """Return line and token of each finding."""
    return [(each.line, each.token.reveal()) for each in scan_stream(io.BytesIO(data), "file")]


@pytest.mark.parametrize("prefix", ["", "acme", "a" * 16])
@pytest.mark.parametrize("kind", KeyKind)
def test_finding_names_the_key_and_hides_the_token(kind: KeyKind, prefix: str) -> None:
    """Every kind, with and without the prefix of a deployment."""
    token = new_token(kind, prefix)
    (finding,) = scan_stream(io.BytesIO(f"a\nb = {token}\n".encode()), "file")
    assert Finding("file", 2, finding.token, kind, KeyMode.LIVE, finding.access_key) == finding
    assert token == finding.token.reveal()
    assert finding.access_key in token
    assert token not in f"{finding} {finding!r}"


@pytest.mark.parametrize(
    "before", ["", "\\n", "\\t", "x", "key_", "secret_key_", "KEY=", '"', "é", "9", "_", "a_b_"]
)
def test_text_directly_before_a_token_does_not_hide_it(before: str) -> None:
    """Escapes of JSON, words with an underscore, letters."""
    for prefix in ("", "acme"):
        token = new_token(KeyKind.SECRET, prefix)
        assert [(1, token)] == found(f"{before}{token}\\n".encode())


def test_tokens_across_chunk_boundaries_are_found_once_with_their_lines() -> None:
    """At every offset around the boundary; lines count from 1."""
    token = new_token(KeyKind.SECRET, "acme")
    for offset in range(-100, 110, 7):
        filler = b"\n" * 10 + b"x" * (CHUNK + offset - 11) + b"\n"
        data = filler + token.encode() + b"\nend " + token.encode()
        assert [(12, token), (13, token)] == found(data), offset


def test_neighbouring_tokens_are_all_found() -> None:
    """Separated by one character, or on many lines."""
    tokens = [new_token(kind) for kind in KeyKind for _ in range(3)]
    for separator in ",;/\n":
        data = separator.join(tokens).encode()
        assert tokens == [token for _, token in found(data)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_text_encodings_are_read(encoding: str) -> None:
    """A configuration file of any editor."""
    token = new_token()
    assert [(2, token)] == found(f"# é\nkey={token}\n".encode(encoding))


def test_binary_content_is_skipped() -> None:
    """A NUL among the first bytes, as git decides; not the name of the file."""
    token = new_token().encode()
    assert [] == found(b"\x7fELF\0" + token)
    assert [(1, token.decode())] == found(b"x" * 9_000 + b"\0 " + token)


def test_ten_thousand_near_misses_are_no_findings() -> None:
    """A token with one character changed, lost, doubled or of another vendor."""
    misses = near_misses(10_000, random.Random(1))
    assert [] == found("\n".join(misses).encode())


def test_secret_beyond_the_largest_is_no_finding() -> None:
    """The finder judges as the parser does."""
    token = make(KeyKind.SECRET, KeyMode.LIVE, new_access_key(), new_secret()).reveal()
    assert [] == found((token[:29] + "z" * 43 + token[-6:]).encode())
