"""Secret keys that live in files beside the database: the pepper of digests, the key of the chain.

A file holds one line a version, `<version> <64 hexadecimal digits>`; the highest version is the
current one. Nothing here is ever shown or stored elsewhere: the database holds a check value of
each version, which recognises a file and tells nothing of it.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Final

KEY_BYTES: Final = 32  # as long as the hash: more adds nothing (RFC 2104, section 3)

REMEMBERED: Final = 256  # digests; some 100 KB

_LINE: Final = re.compile(r"([1-9][0-9]{0,8}) ([0-9a-f]{64})", re.ASCII)
_OTHERS: Final = 0o077  # mode bits of group and others


class KeyringError(Exception):
    """A key file is missing, unsafe or damaged; the message is one line for an operator."""


class Keyring:
    """The versions of one secret key."""

    def __init__(self, name: str, keys: Mapping[int, bytes]) -> None:
        self.name = name
        self.current = max(keys)
        self._keys = dict(keys)
        self.remembered_digest = lru_cache(maxsize=REMEMBERED)(self._digest_of_text)
        """The digest of a text, at no cost for those asked for again and again.

        Only for credentials of callers: few make most calls. A digest depends on nothing but the
        text and the key, so what is remembered cannot be stale.
        """

    def __repr__(self) -> str:
        return f"Keyring({self.name!r}, versions={sorted(self._keys)})"

    @classmethod
    def create(cls, path: Path) -> Keyring:
        """Make a file of mode 0600 with a first version; KeyringError if there is one already."""
        key = secrets.token_bytes(KEY_BYTES)
        write_private(path, f"1 {key.hex()}\n")
        return cls(path.name, {1: key})

    @classmethod
    def load(cls, path: Path) -> Keyring:
        """Read a file that nobody but its owner may read; KeyringError if that does not hold."""
        lines = read_private(path).splitlines()
        found = [_LINE.fullmatch(line) for line in lines]
        keys = {int(match[1]): bytes.fromhex(match[2]) for match in found if match}
        if not keys or len(keys) != len(lines):
            raise KeyringError(f"{path} is damaged: each line is a version and 64 hex digits")
        return cls(path.name, keys)

    def digest(self, message: bytes, version: int | None = None) -> bytes:
        """Return the HMAC-SHA-256 of a message, under the current version unless one is named."""
        return hmac.digest(self._keys[version or self.current], message, "sha256")

    def _digest_of_text(self, text: str, version: int | None) -> bytes:
        return self.digest(text.encode(), version)

    def derive(self, purpose: str, version: int | None = None) -> bytes:
        """Return a key for one purpose, from which the others cannot be told."""
        return self.digest(b"keyauthority derive\0" + purpose.encode(), version)

    def check_values(self) -> Mapping[str, bytes]:
        """Return what the database keeps to recognise this file: a value for each version."""
        return {
            f"{self.name}/{version}": hashlib.sha256(self.derive("check value", version)).digest()
            for version in self._keys
        }


def write_private(path: Path, text: str) -> None:
    """Make a durable file of mode 0600, all or nothing; KeyringError if it is there already."""
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(handle, "w", encoding="ascii") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.link(draft, path)  # unlike a rename it never replaces what is there
        finally:
            draft.unlink()
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise KeyringError(f"cannot make {path}: {error.strerror}") from error


def read_private(path: Path) -> str:
    """Return the text of a file that nobody but its owner may read; else KeyringError."""
    try:
        with path.open(encoding="ascii") as file:
            if os.fstat(file.fileno()).st_mode & _OTHERS:
                raise KeyringError(f"{path} is open to others; make it private: chmod 600 {path}")
            return file.read()
    except OSError as error:
        raise KeyringError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise KeyringError(f"cannot read {path}: it is no key file") from error
