"""Tokens as presented: of this authority's grammar, or of another system whose keys were imported.

The tokens of imported keys are found by the first part of their digests, under each pepper version,
and only if they fit the shape of an import set.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from keyauthority.model import ImportScheme, ImportSet, KeyKind, KeyMode, Revision, TokenPart
from keyauthority.token import AccessKey, Token, parse
from keyauthority_server.keyring import Keyring
from keyauthority_server.records import RecordCache
from keyauthority_server.services.time_slices import Slices
from keyauthority_server.services.token_digests import IMPORTED
from keyauthority_server.store.interface import Store
from keyauthority_server.store.sql.queries.imports import import_sets

_HASH: Final = {scheme: scheme.value.partition("_")[0] for scheme in ImportScheme}
_HEX: Final = {
    ImportScheme.SHA256_HEX: re.compile(r"[0-9a-f]{64}", re.ASCII),
    ImportScheme.SHA512_HEX: re.compile(r"[0-9a-f]{128}", re.ASCII),
}
_NO_KEY: Final = Token(KeyKind.SECRET, KeyMode.LIVE, AccessKey(""))


class PresentedToken(NamedTuple):
    """A token, and the message that the digest of its key is made from."""

    token: Token
    """The key that the token names, which only the digest proves."""
    text: str
    message: bytes

    def __repr__(self) -> str:
        return f"PresentedToken({self.token!r})"


def presented(text: str) -> PresentedToken | None:
    """Return a token of this authority's grammar; None for any other text."""
    token = parse(text)
    return None if token is None else PresentedToken(token, text, text.encode())


def imported_message(scheme: ImportScheme, digest: str) -> bytes | None:
    """Return the message to store for a digest of another system; None if it is malformed.

    It never equals the text of a token.
    """
    if scheme in _HEX:
        if _HEX[scheme].fullmatch(digest) is None:
            return None
        return _message(scheme, bytes.fromhex(digest))
    is_url = scheme is ImportScheme.SHA256_BASE64URL
    encode = base64.urlsafe_b64encode if is_url else base64.standard_b64encode
    try:
        raw = base64.b64decode(digest + "=" * is_url, b"-_" if is_url else None, validate=True)
    except (binascii.Error, ValueError):
        return None
    canonical = encode(raw).decode().rstrip("=" if is_url else "")
    is_canonical = len(raw) == 32 and hmac.compare_digest(canonical, digest)
    return _message(scheme, raw) if is_canonical else None


def _message(scheme: ImportScheme, raw: bytes) -> bytes:
    return IMPORTED + _HASH[scheme].encode() + b"\0" + raw


def _messages(text: str, sets: Sequence[ImportSet]) -> Iterator[tuple[bytes, str]]:
    """Yield message and set name for each import set that the token fits."""
    for each in sets:
        if not (
            each.token_length_min <= len(text) <= each.token_length_max
            and text.startswith(each.token_prefix)
        ):
            continue
        _, underscore, part = text.rpartition("_")
        if each.token_part is TokenPart.WHOLE:
            part = text
        elif not underscore:
            continue
        raw = hashlib.new(_HASH[each.scheme], part.encode()).digest()
        yield _message(each.scheme, raw), each.name


class ImportedTokens:
    """Finds the keys of tokens of other systems."""

    def __init__(self, store: Store, peppers: Keyring, records: RecordCache) -> None:
        self._store = store
        self._peppers = peppers
        self._records = records
        self._sets: Sequence[ImportSet] = ()
        self._prefixes: tuple[str, ...] = ()
        self._sets_at: Revision | None = None

    async def find(
        self, texts: Sequence[str], slices: Slices | None = None
    ) -> dict[str, PresentedToken]:
        """Return the texts that fit an import set, each as a token.

        A text without a key is a token of no key, so that it costs the same comparison; one with
        keys in several sets is that of the set whose name comes first. With `slices` other calls
        run meanwhile: each text costs a digest for each set that it fits.
        """
        sets = await self._current_sets()
        texts = [text for text in texts if text.startswith(self._prefixes) and text.isascii()]
        if not texts:
            return {}
        tokens: dict[str, PresentedToken] = {}
        names: dict[bytes, set[str]] = {}
        digests: dict[bytes, PresentedToken] = {}
        for text in texts:
            for message, name in _messages(text, sets):
                names.setdefault(message, set()).add(name)
                tokens[text] = token = PresentedToken(_NO_KEY, text, message)
                for version in self._peppers.versions:
                    digests[self._peppers.digest(message, version)] = token
            if slices is not None and slices.are_over():
                await slices.pause()
        found = await self._store.find_imported(list(digests)) if digests else {}
        by_set = sorted(found.items(), key=lambda pair: pair[1].import_set, reverse=True)
        for digest, key in by_set:  # that of the first set is looked at last
            token = digests[digest]
            if key.import_set in names[token.message]:
                named = Token(key.kind, key.mode, AccessKey(key.access_key))
                tokens[token.text] = token._replace(token=named)
        return tokens

    async def _current_sets(self) -> Sequence[ImportSet]:
        """Return the import sets; they change only with a change in the log, which made a key."""
        current, position = self._records.catch_up(), self._records.position
        if not current or self._sets_at != position:
            self._sets = await self._store.query(import_sets)
            self._prefixes = tuple(each.token_prefix for each in self._sets)
            self._sets_at = position if current else None
        return self._sets
